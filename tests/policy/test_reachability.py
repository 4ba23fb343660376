from collections.abc import Callable

import pytest

from proxy.model import Principal
from proxy.policy.engine import PolicySet

Load = Callable[[str], PolicySet]


def who(
    *roles: str, subject: str = "ann", agent: bool = False, groups: tuple[str, ...] = ()
) -> Principal:
    """Make a principal of the local issuer."""
    return Principal(
        "https://callgate.local/issuer", "local", subject, tuple(sorted(roles)), groups, agent, 2e9
    )


@pytest.mark.parametrize(
    ("policy", "may"),
    [
        ('permit (principal in Role::"viewer", action in Action::"view", resource);', True),
        ('permit (principal in Role::"admin", action in Action::"view", resource);', False),
        ('permit (principal == User::"local|ann", action, resource);', True),
        ('permit (principal == User::"local|bob", action, resource);', False),
        ('permit (principal, action in Action::"work", resource);', False),
        ('permit (principal, action, resource == Scheduler::"luigi");', True),
        ('permit (principal, action, resource == Scheduler::"processes");', False),
        ("permit (principal is User, action, resource is Scheduler);", True),
        ("permit (principal, action, resource) when { context.agent };", False),
        ("permit (principal, action, resource) unless { context.agent };", True),
        (
            'permit (principal, action, resource) when { context has task && context.task == "x" };',
            True,
        ),
        ("permit (principal, action, resource) when { context.agent && context has task };", False),
        ("permit (principal, action, resource) when { context.agent || context has task };", True),
        (
            'permit (principal, action, resource) when { principal in Role::"viewer" && action == Action::"task_list" };',
            True,
        ),
        (
            'permit (principal, action, resource) when { principal in [Role::"admin", Role::"worker"] };',
            False,
        ),
        (
            'permit (principal, action, resource) when { if action in Action::"view" then !context.agent else context has task };',
            True,
        ),
        ("permit (principal, action, resource) when { context.args has family };", False),
    ],
)
def test_a_call_that_no_permit_covers_is_a_no(load: Load, policy: str, may: bool) -> None:
    """A viewer that calls task_list on luigi: the answer is no only where it is so for all
    arguments.
    """
    assert load('@id("x") ' + policy).may_call(who("viewer"), "luigi", "task_list") is may


def test_a_certain_forbid_counts(load: Load) -> None:
    """A forbid that holds for all arguments is a no; one that depends on them is not."""
    permit = '@id("all") permit (principal, action, resource);'
    assert not load(
        permit + '@id("f") forbid (principal, action in Action::"view", resource);'
    ).may_call(who("viewer"), "luigi", "graph")
    depends = permit + '@id("f") forbid (principal, action, resource) when { context has task };'
    assert load(depends).may_call(who("viewer"), "luigi", "dep_graph")


def test_no_role_and_unknown_names_are_a_no(load: Load) -> None:
    """A principal without a role may call nothing, and no principal a method that does not exist."""
    policies = load('@id("all") permit (principal, action, resource);')
    assert not policies.may_call(who(), "luigi", "task_list")
    assert not policies.may_call(who("viewer"), "luigi", "eval")
    assert not policies.may_call(who("viewer"), "nowhere", "task_list")


def test_the_shipped_lists_are_those_of_the_roles(shipped: PolicySet) -> None:
    """An agent of an admin sees the views alone; a worker sees the work alone."""
    admin_agent = [
        m
        for m in ("task_list", "pause", "add_task", "mark_as_done")
        if shipped.may_call(who("admin", agent=True), "luigi", m)
    ]
    assert admin_agent == ["task_list"]
    assert shipped.may_call(who("worker"), "luigi", "get_work")
    assert not shipped.may_call(who("worker"), "luigi", "page.root")
    assert not shipped.may_call(who("admin"), "luigi", "update_metrics_task_started")
