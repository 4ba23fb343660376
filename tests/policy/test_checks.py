import pytest

from proxy.catalog.model import Argument, Method
from proxy.common.cedar_statements import split_statements
from proxy.errors import Problem
from proxy.policy.checks import repeated_ids, schema_problems, unknown_names
from proxy.policy.engine import Policy
from proxy.policy.load import parse_statement
from proxy.policy.roles import Roles
from proxy.policy.schema import Action

ACTIONS = {
    name: Action(Method(name, "work", (Argument("family", "family"),) if name == "add" else ()))
    for name in ("add", "b1", "b2", "b3", "b4")
}


def policies(*texts: str) -> list[Policy]:
    """Parse policies, each into a file of its own."""
    return [
        parse_statement(f"{number}.cedar", statement)
        for number, text in enumerate(texts)
        for statement in split_statements(text)
    ]


def messages(problems: list[Problem]) -> list[tuple[str, str, str]]:
    """Return location, message and hint of each problem."""
    return [(one.location, one.message, one.hint) for one in problems]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            'permit (principal, action in Action::"work", resource)'
            ' when { context.task like "etl.*" };',
            (
                "x: reads context.task, which a call of add, b1, b2 and 2 more may lack",
                "Ask for it first: context has task && context.task ...",
            ),
        ),
        (
            'permit (principal, action in [Action::"add", Action::"b1"], resource)'
            ' when { context.args.family == "x" };',
            (
                "x: reads context.args.family, which a call of add, b1 may lack",
                "Ask for it first: context.args has family && context.args.family ...",
            ),
        ),
        (
            'permit (principal, action in Action::"work", resource)'
            ' when { context.args.famly == "x" };',
            (
                "x: names the argument famly, which no method that it covers has",
                "Policies see: family.",
            ),
        ),
        (
            'permit (principal, action == Action::"b1", resource) when { context.args has x };',
            ("x: names the argument x, which no method that it covers has", "Policies see: none."),
        ),
        (
            'permit (principal, action, resource) when { principal.email == "a" };',
            (
                "x: names the attribute principal.email, which does not exist",
                "Policies see: issuer, subject, groups.",
            ),
        ),
        (
            "permit (principal, action, resource) when { resource.x == 1 };",
            (
                "x: names the attribute resource.x, which does not exist",
                "Policies see: protocol.",
            ),
        ),
        (
            'permit (principal, action, resource) when { User::"a|b".email == "a" };',
            (
                "x: attribute `email` on entity type `User` not found",
                "See https://docs.cedarpolicy.com/policies/validation.html.",
            ),
        ),
        (
            'permit (principal, action == Action::"nothing", resource);',
            (
                'x: unrecognized action `Action::"nothing"`',
                "Name a method of a catalog in policies/catalogs, or a permission:"
                " view, work, trigger, admin.",
            ),
        ),
        (
            'permit (principal, action == Action::"view", resource);',
            (
                "x: unable to find an applicable action given the policy scope constraints",
                'Write "in" for a permission: action in Action::"view".',
            ),
        ),
        (
            'permit (principal in Scheduler::"luigi", action, resource);',
            (
                "x: unable to find an applicable action given the policy scope constraints",
                "Write principal in a Role, action a method or permission, resource a Scheduler.",
            ),
        ),
        (
            'permit (principal == Foo::"x", action, resource);',
            (
                "x: unrecognized entity type `Foo`",
                "See https://docs.cedarpolicy.com/policies/validation.html.",
            ),
        ),
        (
            "permit (principal, action, resource) when { context.agent == 1 };",
            (
                "x: the types Bool and Long are not compatible",
                "See https://docs.cedarpolicy.com/policies/validation.html.",
            ),
        ),
    ],
)
def test_one_cause_is_one_problem(policy: str, expected: tuple[str, str]) -> None:
    """A cause is reported once, for any number of methods that the policy covers, and its
    consequences are not.
    """
    (problem,) = schema_problems(policies(f'@id("x") {policy}'), ACTIONS)
    assert (problem.message, problem.hint) == expected


def test_problems_come_in_the_order_of_the_policies() -> None:
    """Each is attributed to its own policy, also where two have the same id."""
    found = policies(
        '@id("x") permit (principal, action == Action::"one", resource);',
        '@id("y") permit (principal, action, resource);',
        '@id("x") permit (principal, action == Action::"two", resource);',
    )
    assert [(problem.location, problem.message) for problem in schema_problems(found, ACTIONS)] == [
        ("0.cedar:1", 'x: unrecognized action `Action::"one"`'),
        ("2.cedar:1", 'x: unrecognized action `Action::"two"`'),
    ]
    assert [problem.location for problem in repeated_ids(found)] == ["0.cedar:1", "2.cedar:1"]


def test_valid_policies_have_no_problem() -> None:
    """A guard in front of an optional argument is enough for every method."""
    found = policies(
        '@id("x") permit (principal, action, resource)'
        ' when { context.args has family && context.args.family == "a" };'
    )
    assert schema_problems(found, ACTIONS) == []
    assert schema_problems([], ACTIONS) == []


def test_unknown_names_are_reported_with_those_that_exist() -> None:
    """Roles, upstreams and issuers that do not exist make a policy void."""
    found = policies(
        '@id("r") forbid (principal in Role::"nobody", action, resource);',
        '@id("s") forbid (principal, action, resource == Scheduler::"lugi");',
        '@id("i") forbid (principal == User::"okta|a", action, resource);',
        '@id("u") forbid (principal == User::"a", action, resource);',
    )
    roles = Roles((), ("viewer",))
    assert messages(unknown_names(found, roles, ("luigi",), ())) == [
        (
            "0.cedar:1",
            "r: names the role nobody, which roles.toml does not have",
            "Use one of: viewer.",
        ),
        (
            "1.cedar:1",
            "s: names the upstream lugi, which the settings do not have",
            "Use one of: luigi.",
        ),
        (
            "2.cedar:1",
            "i: names a user of the issuer okta, which the settings do not have",
            "Use one of: none.",
        ),
        ("3.cedar:1", "u: names the user a without an issuer", 'Write User::"issuer|subject".'),
    ]
    assert unknown_names(found[:1], None, (), None) == []
    assert unknown_names(found[2:3], None, (), None) == []
