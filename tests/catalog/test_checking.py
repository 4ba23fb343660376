import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.checking import check_arguments, check_each, disarm_markup, name_arguments
from proxy.catalog.loading import Catalog, Method, load_catalog
from proxy.catalog.validation_cache import Known
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
SAME_KIND: dict[type, list[Value]] = {
    str: ["", "DONE", "etl.Load", "etl.Load_2", "<b>", "w [a:b]"],
    int: [0, 5, -1, 1 << 70],
    bool: [True, False],
    list: [[], ["b"], ["b", 2]],
    dict: [{}, {"a": 0}, {"a": "x"}, {"<b>": 1}],
}
"""Values that share a Python type, and no more."""


@pytest.fixture(scope="module")
def luigi_catalog() -> Catalog:
    """Load the shipped catalog of luigid."""
    return load_catalog(CATALOGS / "luigi.toml")


@pytest.fixture(scope="module")
def supervisor_catalog() -> Catalog:
    """Load the shipped catalog of supervisord."""
    return load_catalog(CATALOGS / "supervisor.toml")


def refusal(method: Method, args: dict[str, Value]) -> str:
    """Give the detail of the refusal that the arguments meet."""
    with pytest.raises(Rejected) as caught:
        check_arguments(method, args)
    assert caught.value.reason is Reason.BAD_ARGUMENTS
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value.detail


def test_a_stock_add_task_passes(luigi_catalog: Catalog) -> None:
    """What a stock worker sends for a task is accepted as it is, and so is its short tracking-URL
    form.
    """
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


def outcome(
    check: Callable[[Method, dict[str, Value]], None], method: Method, args: dict[str, Value]
) -> str | None:
    """Give the refusal of arguments in full, None when they pass."""
    try:
        check(method, args)
    except Rejected as error:
        return f"{error.reason}: {error.detail}"
    return None


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


@given(
    CHANGED, st.sets(st.sampled_from(list(ADD_TASK)), max_size=2), st.randoms(use_true_random=False)
)
def test_a_shape_that_is_known_changes_no_verdict(
    changed: list[tuple[str, Value]], lost: set[str], dice: random.Random
) -> None:
    """A stock call with some arguments other than they should be: passed or refused as one by one,
    the first time and again.
    """
    args: dict[str, Value] = {
        name: value for name, value in (ADD_TASK | dict(changed)).items() if name not in lost
    }
    method = ADD_TASK_METHOD
    expected = outcome(check_each, method, args)
    assert [outcome(check_arguments, method, args) for _ in range(2)] == [expected, expected]
    others = {
        name: dice.choice(SAME_KIND.get(type(value), [value])) for name, value in args.items()
    }
    assert outcome(check_arguments, method, others) == outcome(check_each, method, others), (
        "of the same shape, with other values"
    )


@given(st.data())
def test_every_method_judges_by_shape_as_one_by_one(data: st.DataObject) -> None:
    """The same for every method of every shipped catalog, and any arguments."""
    method = data.draw(st.sampled_from(ALL_METHODS), "method")
    names = [argument.name for argument in method.arguments] + ["other", "a b"]
    args = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names)), "args")
    for _ in range(2):
        assert outcome(check_arguments, method, args) == outcome(check_each, method, args)


def test_shapes_are_remembered_by_the_catalogs_names_alone(luigi_catalog: Catalog) -> None:
    """What callers invent is not kept, however they call it; of the catalog's own names few shapes
    are, in whatever order they come.
    """
    method = luigi_catalog.methods["add_task"]
    method.shapes.clear()
    for number in range(100):
        check_arguments(method, {**ADD_TASK, f"n{number}": 1})
    assert not method.shapes
    names = sorted(ADD_TASK)
    for number in range(200):
        check_arguments(
            method,
            {
                name: ADD_TASK[name]
                for name in names[number % len(names) :] + names[: number % len(names)]
            },
        )
        check_arguments(method, ADD_TASK)
        names = names[::2] + names[1::2]
    assert 0 < len(method.shapes) <= 64


def test_long_texts_are_not_remembered() -> None:
    """A thousand long names that are good take no place: what is remembered has an end in size,
    too.
    """
    known = Known(str.isidentifier)
    assert all(
        known.is_good("x" * 200 + str(number)) and known.are_good(["y" * 200 + str(number)])
        for number in range(1000)
    )
    assert known.is_good("short") and known.good == {"short"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"priority": "abc"}, "add_task: priority must be a finite number"),
        ({"priority": True}, "add_task: priority must be a finite number"),
        ({"priority": None}, "add_task: priority must be a finite number, not null"),
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
            "add_task: resources must be an object of resource names and non-negative numbers",
        ),
        (
            {"family": "<script>"},
            "add_task: family must be a task family of letters, digits, _ and .",
        ),
        ({"family": "prod.Other"}, "add_task: task_id must start with family"),
        ({"family": "etl.Loa"}, "add_task: task_id must start with family"),
        (
            {"tracking_url": "javascript:alert(1)"},
            "add_task: tracking_url must be an http or https URL",
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
    """A refusal is one ASCII line with the method, the argument and what it must be; the value does
    not appear.
    """
    assert refusal(luigi_catalog.methods["add_task"], {**ADD_TASK, **change}) == line


def test_missing_arguments_are_named(luigi_catalog: Catalog, supervisor_catalog: Catalog) -> None:
    """A call without a required argument is refused, whether the scheduler would fail early, late
    or not at all.
    """
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
    """A keyword that a newer worker adds passes; supervisord has no keywords, so there it is
    refused.
    """
    check_arguments(
        luigi_catalog.methods["count_pending"],
        {"worker": "w", "since_3_9": {"a": [1, float("inf")]}},
    )
    line = refusal(supervisor_catalog.methods["supervisor.getState"], {"verbose": True})
    assert line == "supervisor.getState: verbose is not one of its arguments"


def test_keywords_that_are_data_are_all_checked(luigi_catalog: Catalog) -> None:
    """update_resources takes any name, so each must be a resource's and each value a limit."""
    method = luigi_catalog.methods["update_resources"]
    check_arguments(method, {"db": 3, "disk.gb": 0})
    assert refusal(method, {"db": True}) == "update_resources: db must be a non-negative integer"
    assert refusal(method, {"db": None}) == "update_resources: db must be a non-negative integer"
    assert (
        refusal(method, {"<b>": 1})
        == "update_resources: every name must be a resource name of letters, digits, _ and ."
    )


def test_arguments_by_position_are_named_in_order(
    luigi_catalog: Catalog, supervisor_catalog: Catalog
) -> None:
    """Positions follow the catalog; one too many is refused, since the scheduler would give it
    another meaning or fail.
    """
    assert name_arguments(luigi_catalog.methods["task_list"], ["RUNNING", ""]) == {
        "status": "RUNNING",
        "upstream_status": "",
    }
    with pytest.raises(Rejected) as caught:
        name_arguments(supervisor_catalog.methods["supervisor.stopProcess"], ["a", True, 1])
    assert caught.value.reason is Reason.BAD_ARGUMENTS


def test_markup_in_shown_texts_is_disarmed(luigi_catalog: Catalog) -> None:
    """A status message with markup is refused as it is, and accepted once made into text; others
    are left alone.
    """
    method = luigi_catalog.methods["set_task_status_message"]
    args: dict[str, Value] = {"task_id": "a_1", "status_message": "<img src=x onerror=alert(1)>"}
    assert refusal(method, args) == "set_task_status_message: status_message must be free of markup"
    disarmed = disarm_markup(method, args)
    assert disarmed == {"task_id": "a_1", "status_message": "&lt;img src=x onerror=alert(1)>"}
    assert args["status_message"] == "<img src=x onerror=alert(1)>"
    check_arguments(method, disarmed)
    plain: dict[str, Value] = {"task_id": "a_1", "status_message": "3 < 4"}
    assert disarm_markup(method, plain) is plain
