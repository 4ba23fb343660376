import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.checking import check_arguments, make_harmless, name_arguments
from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog, Method
from proxy.catalog.types import TYPES
from proxy.errors import Rejected
from proxy.model import Reason, Value
from tests.support.paths import ROOT

CATALOGS = ROOT / "policies" / "catalogs"

ADD_TASK: dict[str, Value] = {
    "task_id": "etl.Load_2024_01_01_1a2b3c4d5e",
    "status": "PENDING",
    "runnable": True,
    "deps": ["etl.Get_2024_01_01_0f0f0f0f0f"],
    "new_deps": None,
    "expl": None,
    "resources": {"db": 1},
    "priority": 0,
    "family": "etl.Load",
    "module": "pipelines.etl",
    "params": {"date": "2024-01-01"},
    "param_visibilities": {"date": 0},
    "accepts_messages": False,
    "assistant": False,
    "tracking_url": None,
    "worker": "Worker(salt=1, workers=1, host=h, username=u, pid=2)",
    "batchable": False,
    "batch_id": None,
    "retry_policy_dict": {
        "retry_count": None,
        "disable_hard_timeout": None,
        "disable_window": None,
    },
    "owners": [],
}
"""What a stock worker of luigi 3.8.1 sends when it schedules a task (luigi/worker.py, _add)."""

ADD_TASK_METHOD = load_catalog(CATALOGS / "luigi.toml").methods["add_task"]
ALL_METHODS = [
    method
    for path in sorted(CATALOGS.glob("*.toml"))
    for method in load_catalog(path).methods.values()
]


@pytest.fixture(scope="module")
def luigi_catalog() -> Catalog:
    """Load the shipped catalog of luigid."""
    return load_catalog(CATALOGS / "luigi.toml")


@pytest.fixture(scope="module")
def supervisor_catalog() -> Catalog:
    """Load the shipped catalog of supervisord."""
    return load_catalog(CATALOGS / "supervisor.toml")


def refusal(method: Method, args: dict[str, Value]) -> str:
    """Return the detail of the refusal of the arguments."""
    with pytest.raises(Rejected) as caught:
        check_arguments(method, args)
    assert caught.value.reason is Reason.BAD_ARGUMENTS
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value.detail


def test_a_stock_add_task_passes(luigi_catalog: Catalog) -> None:
    """What a stock worker sends for a task is accepted, and so is its short form with a URL."""
    check_arguments(luigi_catalog.methods["add_task"], ADD_TASK)
    short: dict[str, Value] = {
        "task_id": "a",
        "worker": "w",
        "status": "RUNNING",
        "tracking_url": "http://x/",
        "family": "",
        "params": None,
    }
    check_arguments(luigi_catalog.methods["add_task"], short)


SCALARS: list[Value] = [
    *(None, True, False, 0, 1, -1, 1 << 63, 0.5, math.inf, math.nan),
    *("", "PENDING", "etl.Load", "etl.Load_1", "a b", "<b>", "w [a:b]"),
]
VALUE_LIST: list[Value] = [
    *SCALARS,
    [],
    ["a"],
    ["a", 1],
    ["<b>"],
    {},
    {"a": 1},
    {"a": "x"},
    {"<b>": 1},
    {"retry_count": 1},
    [["k", 1]],
    b"x",
]
VALUES = st.sampled_from(VALUE_LIST)
CHANGED = st.lists(
    st.tuples(st.sampled_from([*ADD_TASK, "new_keyword", "né w\n", "x" * 80]), VALUES), max_size=4
)


def passes(method: Method, args: dict[str, Value]) -> bool:
    """Return whether `check_arguments` accepts the arguments."""
    try:
        check_arguments(method, args)
    except Rejected as error:
        assert error.reason is Reason.BAD_ARGUMENTS
        return False
    return True


def should_pass(method: Method, args: dict[str, Value]) -> bool:
    """Return what the catalog's own rows say of the arguments, read one by one."""
    rows = {argument.name: argument for argument in method.arguments}
    for name, value in args.items():
        if row := rows.get(name):
            valid = row.nullable if value is None else TYPES[row.type].accepts(value)
        elif method.extra_type:
            valid = TYPES["resource"].accepts(name) and value is not None
            valid = valid and TYPES[method.extra_type].accepts(value)
        else:
            valid = method.allow_extra and TYPES["json"].accepts(value)
        if not valid:
            return False
    if not {row.name for row in method.arguments if row.required} <= args.keys():
        return False
    for longer, start in method.must_start_with:
        one, other = args.get(longer), args.get(start)
        if isinstance(one, str) and isinstance(other, str) and other:
            rest = one.removeprefix(other)
            if not (one.startswith(other) and rest[:1] in ("", "_", "(")):
                return False
    return True


@given(CHANGED, st.sets(st.sampled_from(list(ADD_TASK)), max_size=2))
def test_a_changed_stock_call_passes_by_the_rows_of_the_catalog(
    changed: list[tuple[str, Value]], lost: set[str]
) -> None:
    """The verdict is the catalog's, the first time and with warm caches of valid names."""
    args: dict[str, Value] = {
        name: value for name, value in (ADD_TASK | dict(changed)).items() if name not in lost
    }
    expected = should_pass(ADD_TASK_METHOD, args)
    assert [passes(ADD_TASK_METHOD, args) for _ in range(2)] == [expected, expected]


@given(st.data())
def test_every_method_passes_by_the_rows_of_its_catalog(data: st.DataObject) -> None:
    """The same for every method of every shipped catalog, and any arguments."""
    method = data.draw(st.sampled_from(ALL_METHODS), "method")
    names = [argument.name for argument in method.arguments] + ["other", "a b"]
    args = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names)), "args")
    assert passes(method, args) == should_pass(method, args)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"priority": "abc"}, "add_task: priority must be a number"),
        ({"priority": None}, "add_task: priority must be a number, not null"),
        (
            {"task_id": 5},
            "add_task: task_id must be a task id without control characters and markup",
        ),
        (
            {"task_id": None},
            "add_task: task_id must be a task id without control characters and markup, not null",
        ),
        (
            {"resources": {"a": "x"}},
            "add_task: resources must be an object of resource names and numbers",
        ),
        (
            {"family": "<script>"},
            "add_task: family must be a task family without control characters and markup",
        ),
        ({"family": "prod.Other"}, "add_task: task_id must start with family"),
        ({"family": "etl.Loa"}, "add_task: task_id must start with family"),
        (
            {"tracking_url": "javascript:alert(1)"},
            "add_task: tracking_url must be a URL that is no script",
        ),
        (
            {"new_keyword": float("nan")},
            "add_task: new_keyword must be a JSON value of at most 32 levels",
        ),
        (
            {"né w\n": b"x"},
            "add_task: an argument with an unusual name must be a JSON value of at most 32 levels",
        ),
    ],
)
def test_a_bad_argument_is_named_and_never_quoted(
    luigi_catalog: Catalog, change: dict[str, Value], line: str
) -> None:
    """A refusal is one ASCII line with the method, the argument and what is expected."""
    assert refusal(luigi_catalog.methods["add_task"], {**ADD_TASK, **change}) == line


def test_missing_arguments_are_named(luigi_catalog: Catalog, supervisor_catalog: Catalog) -> None:
    """A call without a required argument is refused, even where the scheduler accepts it."""
    assert (
        refusal(luigi_catalog.methods["add_task"], {"worker": "w"})
        == "add_task: task_id is missing"
    )
    assert refusal(luigi_catalog.methods["ping"], {}) == "ping: worker is missing"
    assert (
        refusal(supervisor_catalog.methods["supervisor.startProcess"], {})
        == "supervisor.startProcess: name is missing"
    )


def test_unknown_keywords_pass_to_luigid_alone(
    luigi_catalog: Catalog, supervisor_catalog: Catalog
) -> None:
    """A keyword of a newer worker passes to luigid; supervisord has no keywords."""
    check_arguments(
        luigi_catalog.methods["count_pending"],
        {"worker": "w", "since_3_9": {"a": [1, float("inf")]}},
    )
    line = refusal(supervisor_catalog.methods["supervisor.getState"], {"verbose": True})
    assert line == "supervisor.getState: verbose is not one of its arguments"


def test_keywords_that_are_data_are_all_checked(luigi_catalog: Catalog) -> None:
    """Each name in update_resources must be a resource's, and each value a limit."""
    method = luigi_catalog.methods["update_resources"]
    check_arguments(method, {"db": 3, "disk.gb": 0})
    assert refusal(method, {"db": True}) == "update_resources: db must be a non-negative integer"
    assert refusal(method, {"db": None}) == "update_resources: db must be a non-negative integer"
    assert (
        refusal(method, {"<b>": 1})
        == "update_resources: every name must be a resource name of at most 1024 characters, without markup"
    )


def test_arguments_by_position_are_named_in_order(
    luigi_catalog: Catalog, supervisor_catalog: Catalog
) -> None:
    """Positions follow the catalog. One value too many is refused: its meaning is unknown."""
    assert name_arguments(luigi_catalog.methods["task_list"], ["RUNNING", ""]) == {
        "status": "RUNNING",
        "upstream_status": "",
    }
    with pytest.raises(Rejected) as caught:
        name_arguments(supervisor_catalog.methods["supervisor.stopProcess"], ["a", True, 1])
    assert caught.value.reason is Reason.BAD_ARGUMENTS


def test_markup_in_shown_texts_is_escaped(luigi_catalog: Catalog) -> None:
    """A status message with a tag is refused as it came, and accepted once it is escaped."""
    method = luigi_catalog.methods["set_task_status_message"]
    args: dict[str, Value] = {"task_id": "a_1", "status_message": "<img src=x onerror=alert(1)>"}
    assert refusal(method, args) == "set_task_status_message: status_message must be free of markup"
    escaped = make_harmless(method, args)
    assert escaped == {"task_id": "a_1", "status_message": "&lt;img src=x onerror=alert(1)>"}
    assert args["status_message"] == "<img src=x onerror=alert(1)>"
    check_arguments(method, escaped)
    plain: dict[str, Value] = {"task_id": "a_1", "status_message": "3 < 4"}
    assert make_harmless(method, plain) is plain
    missing: dict[str, Value] = {"task_id": "a_1"}
    assert make_harmless(method, missing) is missing
