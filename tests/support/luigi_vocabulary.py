"""What a stock worker can send, value by value: read from the sources of luigi 3.8.1.

luigi checks few of the values that tasks state. `names` are texts that luigi takes as they are;
the other tables are by the place where a task or a worker states them. `REFUSED` has what Callgate
refuses although luigid answers 200, with the harm that it does to others.
"""

import math
from typing import Any

HUGE = 10**30
HALF = "caf\udce9.csv"
"""A file's name that is not UTF-8, as Python has it (``os.fsdecode``)."""

NAMESPACES = (
    "",
    "etl",
    "data-platform",
    "team:etl/daily",
    "R&D",
    "O'Brien",
    'the "best"',
    "a b",
    "a < b > c",
    "100% of `it`",
    "café.été",
    "ключи",
    "数据",
    "\U0001f680",
    "می‌خواهم",  # with a zero-width non-joiner
    "no\u00a0break",
    "[x]",
    "{y}",
    "a(b",
    "n" * 300,
    "a#b?c=d;e+f,g",
    "back\\slash",
)
"""``task_namespace`` is any text (luigi/task.py); the class's own name is one too (``type()``)."""

RESOURCES: tuple[dict[str, Any], ...] = (
    {},
    {"db": 1},
    {"/data/out/report.csv": 1},  # Luigi Patterns, "Avoiding concurrent writes to a single file"
    {"db-connections": 1, "gpu:0": 1},
    {'s3://bucket/key with blanks/R&D\'s "x".csv': 1},
    {"<class 'luigi.LocalTarget'>": 1},
    {"": 1},
    {"line\nbreak\ttab": 1},
    {"наборы": 0.5, "\U0001f4be": 1e-9},
    {"db": True},
    {"db": 0},
    {"db": -1},
    {"db": math.nan},
    {"db": 0.0},
    {"r" * 500: 1},
)
"""``resources`` is any dictionary (luigi/task.py, `process_resources`)."""

IMPOSSIBLE_RESOURCES: tuple[dict[str, Any], ...] = ({"db": math.inf}, {"db": HUGE}, {"db": 2})
"""More than there is of a resource: such a task is never run."""

PRIORITIES: tuple[Any, ...] = (
    0,
    1,
    -5,
    0.5,
    -0.0,
    True,
    HUGE,
    -HUGE,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
)
"""``priority`` is what a task says; luigid sorts by it."""

PARAMS = (
    "",
    "plain",
    "2026-12-01",
    '<b>bold</b> & "it\'s"',
    "line\nbreak\x00\x1b[31m\x7f",
    "é漢\U0001f600\u202e",
    HALF,
    "x" * 10_000,
    '{"json": [1, NaN]}',
    "a=b&c=d+e%20f;g#h",
)
"""``params`` are texts that parameters serialise to (`Task.to_str_params`)."""

PARAM_NAMES = ("date", "дата", "with-dash", "with blank", "a.b", "<b>", "x'y=z")

MESSAGES: tuple[Any, ...] = (
    "step 1 of 2",
    "<class 'x'> <b>bold</b> a < b && c",
    "\x1b[31mred\x1b[0m\x00",
    "é漢\U0001f600 " + HALF,
    "m" * 100_000,
    "",
    None,
    7,
    1.5,
    math.nan,
    True,
    ["a", {"b": "<i>"}],
    {"rows": 3, "rate": math.inf},
)
"""``set_status_message`` and the responses of scheduler messages take any JSON."""

PROGRESS: tuple[Any, ...] = (0, 50, 99.9, 100, 250, -1, True, None, "half", math.nan, math.inf)

TRACKING_URLS: tuple[Any, ...] = (
    "http://tracker:8088/job/1?a=1&b=%20#top",
    "N/A",  # YARN, through luigi/contrib/hadoop.py
    "file:///var/log/job.log",
    "s3://bucket/key",
    "https://kibana/app#/discover?_g=(time:(from:'now-1d'))",
    "//host/path",
    "host:8080/x",
    "http://bücher.example/ü",
    "javascript:alert(1)",
    " java\nscript:alert(1)",
    "data:text/html,<script>",
    "",
    "http://x/" + "y" * 10_000,
    "http://x/" + HALF,
)
"""``set_tracking_url`` takes what a program printed."""

RETRY_POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"retry_count": 2, "disable_hard_timeout": None, "disable_window": None},
    {"retry_count": math.inf, "disable_hard_timeout": math.inf, "disable_window": 3600.5},
    {"retry_count": 3.0, "disable_hard_timeout": -1, "disable_window": HUGE},
    {"retry_count": math.nan, "disable_hard_timeout": None, "disable_window": math.nan},
    {"retry_count": True},
)

EXPLANATIONS = (
    None,
    "",
    '"\\u00e9 Traceback <b>x</b>\\n"',
    "Traceback \x1b[31m \x00 " + HALF,
    '"' + "File x, line 1\\n" * 20_000 + '"',
)

MODULES: tuple[Any, ...] = (
    None,
    "__main__",
    "pkg.module",
    "my-script",
    "модуль",
    "/opt/jobs/run.py",
    "<stdin>",
    "a b",
)
"""``task_module`` is the class's ``__module__``."""

FLAGS: tuple[Any, ...] = (True, False, None, 1, 0, "yes", "", 2.5)
"""``batchable`` and ``accepts_messages`` are what a task says; luigid asks whether they are true."""

OWNERS: tuple[Any, ...] = (None, [], ["ann@example.com", " bob <bob@example.com>", "", "é"])

BATCH_SIZES: tuple[Any, ...] = (1, 2, 1000, 2.5, math.inf, math.nan, 0, -1, True, HUGE)

WORKERS = (
    "Worker(salt=0123456789, workers=1, host=db-1.example, username=ann, pid=4711)",
    "Worker(salt=1, workers=1, host=bücher, username=анна, pid=1)",
    "Worker(salt=1, workers=1, host=ann's-mac, username=CORP\\ann.o'brien, pid=1)",
    "Worker(salt=1, workers=1, host=h, username=R&D <rd@example.com>, pid=1)",
    "job[3]",  # an array job of a cluster
    "job[3] [x]",
    " blank ",
    "a%5Bb",
    "a%",
    "w\uff3blocal:ann\uff3d",
    "\U0001f680\u202e",
    "tab\tnew\nline",
    "h" * 700,
)
"""``[worker] id`` is any text; else it is made of machine, user and process."""

WORKER_INFOS: tuple[Any, ...] = (
    {},
    [
        ["salt", "0123456789"],
        ["workers", 1],
        ["host", "ann's-mac"],
        ["username", "CORP\\ann <x>"],
        ["pid", 4711],
        ["sudo_user", "root"],
        ["first_task", None],
    ],
    [["workers", 0], ["first_task", "A_1"]],
    [["workers", -1], ["host", HALF], ["load", math.nan], ["tags", ["a", 1]]],
    {"workers": True, "any name at all": 1.5},
)

HOSTS: tuple[Any, ...] = (None, "", "db-1.example", "bücher", "a\nb", "<b>", HALF, "h" * 300)

STATISTICS: tuple[Any, ...] = (None, {}, {"a": [1, 2.5, None]}, {"rate": math.nan}, "text", 3)

TASK: dict[str, Any] = {"status": "PENDING", "family": "Odd", "params": {"n": "1"}}


def calls() -> list[tuple[str, dict[str, Any]]]:
    """Return one call for each value, with a task of its own where luigid keeps the value."""
    found: list[tuple[str, dict[str, Any]]] = []

    def task(**args: Any) -> None:
        worker = args.pop("worker", "w")
        found.append(
            ("add_task", {**TASK, "task_id": f"Odd_{len(found)}", "worker": worker, **args})
        )

    for namespace in NAMESPACES:
        family = f"{namespace}.Task" if namespace else "Task"
        task(family=family, task_id=f"{family}_1_99914b932b", deps=[f"{family}_2_99914b932b"])
    for name, values in {
        "resources": (*RESOURCES, *IMPOSSIBLE_RESOURCES, None),
        "priority": PRIORITIES,
        "tracking_url": (*TRACKING_URLS, None),
        "retry_policy_dict": (*RETRY_POLICIES, None),
        "expl": EXPLANATIONS,
        "module": MODULES,
        "runnable": FLAGS,
        "accepts_messages": FLAGS,
        "assistant": FLAGS,
        "batchable": FLAGS,
        "owners": OWNERS,
        "deps": (None, [], ["A_1", "A_1"]),
    }.items():
        for value in values:
            task(**{name: value})
    for text in PARAMS:
        task(params={"n": text})
    for name in PARAM_NAMES:
        task(params={name: "x"}, param_visibilities={name: 1})
    task(params={"n": 1, "f": 2.5, "nan": math.nan, "none": None, "list": [1], "t": True})
    for worker in WORKERS:
        task(worker=worker)
        found.append(("ping", {"worker": worker}))
        found.append(("count_pending", {"worker": worker}))
    for number, info in enumerate(WORKER_INFOS):
        found.append(("add_worker", {"worker": f"w-{number}", "info": info}))
    for size in BATCH_SIZES:
        args = {"worker": "w", "task_family": "Odd", "batched_args": ["n"]}
        found.append(("add_task_batcher", {**args, "max_batch_size": size}))
    for text in PARAMS:
        failure = {"worker": "w", "task_name": text, "family": "Odd", "params": {"n": text}}
        found.append(("announce_scheduling_failure", {**failure, "expl": text, "owners": []}))
    about = {"task_id": "Odd_0"}
    found += [("set_task_status_message", {**about, "status_message": value}) for value in MESSAGES]
    found += [
        ("set_task_progress_percentage", {**about, "progress_percentage": value})
        for value in PROGRESS
    ]
    found += [
        ("add_scheduler_message_response", {**about, "message_id": "m", "response": value})
        for value in MESSAGES
    ]
    found += [
        ("decrease_running_task_resources", {**about, "decrease_resources": value})
        for value in (*RESOURCES, *IMPOSSIBLE_RESOURCES)
    ]
    found += [("report_task_statistics", {**about, "statistics": value}) for value in STATISTICS]
    found += [
        ("get_work", {"worker": "asking", "host": host, "current_tasks": [], "assistant": False})
        for host in HOSTS
    ]
    return found


REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("add_task", {"priority": "high"}, "get_work fails for every worker: it sorts by priority"),
    ("add_task", {"resources": {"db": "1"}}, "get_work fails for every worker: it adds amounts"),
    ("add_task", {"retry_policy_dict": {"retry_count": "3"}}, "pruning fails for every dashboard"),
    ("add_task", {"family": "<b>", "task_id": "<b>_1"}, "the visualiser runs a tag in a family"),
    ("add_task", {"family": "a' b=c", "task_id": "a' b=c_1"}, "its graph has an attribute of it"),
    ("add_task", {"family": "a\nb", "task_id": "a\nb_1"}, "one name in two lines of luigid's log"),
    ("add_worker", {"info": [["name", "x"]]}, "worker_list fails for every dashboard"),
    ("add_worker", {"info": {"workers": "many"}}, "get_work fails for every worker: it counts"),
    ("ping", {"worker": "w [local:ann]"}, "it would be the worker of another identity"),
)
"""Calls that are refused: method, the arguments that differ, and the harm."""
