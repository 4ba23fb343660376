import cedarpy
import pytest

from proxy.catalog.loading import Argument, Method
from proxy.policy.context_reads import TASK, Look, looks
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


def looked(condition: str, action: str = "action") -> tuple[Look, ...]:
    """Collect the looks of a permit with one condition."""
    found = cedarpy.policies_to_pst(
        f'@id("x") permit (principal, {action}, resource) when {{ {condition} }};'
    )
    return looks(list(found.static_policies.values()), "m", ACTION)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true", []),
        ("context.agent", []),
        ("context has agent && context has args", []),
        ('principal.issuer == "x" && principal.groups.contains("g")', []),
        ("context has task", [Look(TASK, "given")]),
        ("context.args has family", [Look("family", "given")]),
        ("context has args.family", [Look("family", "given")]),
        ('context has task && context.task like "e*"', [Look(TASK, "like", ("e", None))]),
        ('context has task && context["task"] like "e\\*"', [Look(TASK, "like", ("e", "*"))]),
        ('context.task == "x"', [Look(TASK, "equals", text="x")]),
        ('"x" != context.task', [Look(TASK, "equals", text="x")]),
        (
            'context.task == "x" && context.task == "y"',
            [Look(TASK, "equals", text="x"), Look(TASK, "equals", text="y")],
        ),
        ('["x"].contains(context.task)', [Look(TASK, "value")]),
        ('context.task == "x" && ["x"].contains(context.task)', [Look(TASK, "value")]),
        ("context.task == principal.subject", [Look(TASK, "value")]),
        ("context.args.n > 3", [Look("n", "value")]),
        ("context.args.n == 3", [Look("n", "value")]),
        (
            "if context.args.on then context.args.n > 3 else false",
            [Look("n", "value"), Look("on", "value")],
        ),
        ('context.args.deps.contains("x")', [Look("deps", "value")]),
        ("context.args has other && context.args.other", []),
        ('{"a": context.args.n} == {"a": 1}', [Look("n", "value")]),
        (
            'context.args == {"n": 1}',
            [Look(at, "value") for at in (TASK, "deps", "family", "n", "on")],
        ),
        ("[context].isEmpty()", [Look(at, "value") for at in (TASK, "deps", "family", "n", "on")]),
        (
            "(if context.agent then context else context) has task",
            [Look(at, "value") for at in (TASK, "deps", "family", "n", "on")],
        ),
        ('context.other == "x"', [Look(at, "value") for at in (TASK, "deps", "family", "n", "on")]),
    ],
)
def test_what_a_condition_looks_at_is_found(condition: str, expected: list[Look]) -> None:
    """Every use of the context is found, no finer than it is, and what cannot be followed counts as
    everything.
    """
    assert list(looked(condition)) == expected


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
    """A policy on other methods does not make this one's decisions finer."""
    assert bool(looked("context has task", action)) == counts
