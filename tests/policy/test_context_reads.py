import cedarpy
import pytest

from proxy.catalog.model import Argument, Method
from proxy.policy.context_reads import TASK_KEY, ContextRead, reads_of
from proxy.policy.schema import Action

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


def reads(condition: str, action: str = "action") -> tuple[ContextRead, ...]:
    """Return the reads of a permit with one condition."""
    found = cedarpy.policies_to_pst(
        f'@id("x") permit (principal, {action}, resource) when {{ {condition} }};'
    )
    return reads_of(list(found.static_policies.values()), "m", ACTION)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true", []),
        ("context.agent", []),
        ("context has agent && context has args", []),
        ('principal.issuer == "x" && principal.groups.contains("g")', []),
        ('context.agent == "x" || context.agent like "x"', []),
        ("context has task", [ContextRead(TASK_KEY, "given")]),
        ("context.args has family", [ContextRead("family", "given")]),
        ("context has args.family", [ContextRead("family", "given")]),
        (
            'context has task && context.task like "e*"',
            [ContextRead(TASK_KEY, "like", ("e", None))],
        ),
        (
            'context has task && context["task"] like "e\\*"',
            [ContextRead(TASK_KEY, "like", ("e", "*"))],
        ),
        ('context.task == "x"', [ContextRead(TASK_KEY, "equals", text="x")]),
        ('"x" != context.task', [ContextRead(TASK_KEY, "equals", text="x")]),
        (
            'context.task == "x" && context.task == "y"',
            [ContextRead(TASK_KEY, "equals", text="x"), ContextRead(TASK_KEY, "equals", text="y")],
        ),
        ('["x"].contains(context.task)', [ContextRead(TASK_KEY, "value")]),
        ('context.task == "x" && ["x"].contains(context.task)', [ContextRead(TASK_KEY, "value")]),
        ("context.task == principal.subject", [ContextRead(TASK_KEY, "value")]),
        ("context.args.n > 3", [ContextRead("n", "value")]),
        ("context.args.n == 3", [ContextRead("n", "value")]),
        (
            "if context.args.on then context.args.n > 3 else false",
            [ContextRead("n", "value"), ContextRead("on", "value")],
        ),
        ('context.args.deps.contains("x")', [ContextRead("deps", "value")]),
        ("context.args has other && context.args.other", []),
        ('{"a": context.args.n} == {"a": 1}', [ContextRead("n", "value")]),
        (
            'context.args == {"n": 1}',
            [ContextRead(at, "value") for at in (TASK_KEY, "deps", "family", "n", "on")],
        ),
        (
            "[context].isEmpty()",
            [ContextRead(at, "value") for at in (TASK_KEY, "deps", "family", "n", "on")],
        ),
        (
            "(if context.agent then context else context) has task",
            [ContextRead(at, "value") for at in (TASK_KEY, "deps", "family", "n", "on")],
        ),
        (
            'context.other == "x"',
            [ContextRead(at, "value") for at in (TASK_KEY, "deps", "family", "n", "on")],
        ),
    ],
)
def test_the_reads_of_a_condition_are_found(condition: str, expected: list[ContextRead]) -> None:
    """Every use of the context is found, no finer than it is. A use that cannot be traced counts as
    a read of every argument.
    """
    assert list(reads(condition)) == expected


@pytest.mark.parametrize(
    ("action", "counts"),
    [
        ("action", True),
        ('action == Action::"m"', True),
        ('action == Action::"other"', False),
        ('action in Action::"work"', True),
        ('action in [Action::"view", Action::"m"]', True),
        ('action in [Action::"view", Action::"admin"]', False),
    ],
)
def test_only_policies_that_can_apply_count(action: str, counts: bool) -> None:
    """A policy on other methods adds no reads to this one."""
    assert bool(reads("context has task", action)) == counts
