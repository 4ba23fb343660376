from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.model import Argument, Method
from proxy.model import Call, Value
from proxy.policy.context_reads import TASK_KEY, ContextRead
from proxy.policy.decision_key import (
    MAX_ITEMS,
    MAX_TEXT,
    NotCacheable,
    compile_key,
    task_projection,
)
from proxy.policy.schema import Action
from proxy.policy.wildcards import matcher

ACTION = Action(
    Method(
        "m",
        "work",
        (
            Argument("family", "family"),
            Argument("n", "integer"),
            Argument("deps", "task-ids"),
            Argument("on", "boolean"),
        ),
    )
)


def call(args: dict[str, Value], task: str | None = None) -> Call:
    """Make a call of the method."""
    return Call("luigi", "luigi", "m", "work", args, task=task)


PATTERN = st.lists(st.one_of(st.none(), st.sampled_from("ab.*\n")), max_size=8).map(tuple)


TEXT = st.text(alphabet="ab.*", max_size=6)
READ = st.one_of(
    st.builds(lambda pattern: ("like", pattern), PATTERN),
    st.builds(lambda text: ("like", (*text, None)), TEXT),  # a prefix, the usual kind
    st.builds(lambda text: ("equals", text), TEXT),
    st.just(("given", "")),
)


def result_of(read: ContextRead, text: str | None) -> Hashable:
    """Return the result of one read of a text, by its definition."""
    if text is None:
        return None
    return {"given": True, "like": matcher(read.pattern)(text), "equals": text == read.text}[
        read.kind
    ]


@given(st.sets(READ, max_size=8), st.lists(st.none() | TEXT, min_size=2, max_size=12))
def test_reads_taken_together_are_as_fine_as_one_by_one(
    sorts: set[tuple[str, object]], texts: list[str | None]
) -> None:
    """Two calls have the same key, and two tasks the same projection, if and only if every single
    read of them has the same result.
    """
    for at in (TASK_KEY, "family"):
        reads = [
            ContextRead(
                at,
                kind,  # type: ignore[arg-type]  # one of the three
                pattern=what if isinstance(what, tuple) else (),
                text=what if isinstance(what, str) else "",
            )
            for kind, what in sorted(sorts, key=repr)
        ]
        key, project = compile_key(reads, ACTION), task_projection(reads, ACTION)
        assert (key is None) == (not reads)
        for one in texts:
            for other in texts:
                same = [result_of(read, one) for read in reads] == [
                    result_of(read, other) for read in reads
                ]
                if key is not None and at == TASK_KEY:
                    assert (key(call({}, one), one) == key(call({}, other), other)) == same
                if key is not None and at == "family":
                    assert (
                        key(call({"family": one}), None) == key(call({"family": other}), None)
                    ) == same
                if project is not None and at == TASK_KEY and one is not None and other is not None:
                    assert (project(one) == project(other)) == same


def test_each_place_has_its_own_part() -> None:
    """An absent argument and one whose value is not read have different keys, for each argument."""
    reads = [
        ContextRead(TASK_KEY, "like", ("e", None)),
        ContextRead("family", "equals", text="a"),
        ContextRead("family", "equals", text="b"),
        ContextRead("on", "given"),
    ]
    key = compile_key(reads, ACTION)
    assert key is not None
    made: list[dict[str, Value]] = [
        {},
        {"on": False},
        {"family": "a"},
        {"family": "b"},
        {"family": "c"},
        {"family": "c", "on": True},
    ]
    calls = [call(args, task) for task in (None, "e1", "x") for args in made]
    assert len({key(one, one.task) for one in calls}) == len(calls)
    assert key(call({"on": False}), None) == key(call({"on": True, "n": 5}), None)


def test_values_have_different_keys_up_to_a_length() -> None:
    """A value that is read as it is goes into the key as it is. A call with a value that is too
    long is decided, and the decision is not cached.
    """
    key = compile_key([ContextRead(at, "value") for at in ("deps", "family", "n", "on")], ACTION)
    assert key is not None
    made: list[dict[str, Value]] = [
        {}, {"n": 0}, {"n": 1}, {"on": True}, {"on": False}, {"family": ""}, {"family": "a"},
        {"deps": []}, {"deps": ["a"]}, {"deps": ["a", "b"]},
    ]  # fmt: skip
    assert len({key(call(args), None) for args in made}) == len(made)
    for args in (
        {"family": "x" * (MAX_TEXT + 1)},
        {"deps": ["x" * (MAX_TEXT + 1)]},
        {"deps": ["x"] * (MAX_ITEMS + 1)},
    ):
        with pytest.raises(NotCacheable):
            key(call(args), None)  # type: ignore[arg-type]  # mypy does not see these as Values
    project = task_projection([ContextRead(TASK_KEY, "value")], ACTION)
    assert project is not None and project("etl.A") == "etl.A"


@pytest.mark.parametrize(
    "args", [{"n": True}, {"n": 1.0}, {"on": 1}, {"family": ["a"]}, {"deps": "a"}]
)
def test_a_value_of_another_type_has_no_key(args: dict[str, Value]) -> None:
    """Cedar would not accept it as the type of the schema, and the call is denied."""
    key = compile_key([ContextRead(at, "value") for at in args], ACTION)
    assert key is not None
    with pytest.raises(TypeError):
        key(call(args), None)
