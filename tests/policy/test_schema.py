from typing import Literal

import cedarpy
import pytest

from proxy.catalog.model import Argument, Catalog, Method
from proxy.errors import ConfigError
from proxy.policy.schema import actions_of, cedar_schema


def catalog(name: str, *methods: Method) -> Catalog:
    """Make a catalog of some methods."""
    return Catalog(name, "xmlrpc", {method.name: method for method in methods})


def method(
    name: str, permission: Literal["view", "work", "trigger", "admin"], *arguments: tuple[str, str]
) -> Method:
    """Make a method with arguments of given types."""
    return Method(name, permission, tuple(Argument(argument, kind) for argument, kind in arguments))


def valid(policy: str, *catalogs: Catalog) -> bool:
    """Return whether the policy validates against the schema of the catalogs."""
    schema = cedarpy.Schema.from_str(cedar_schema(actions_of(catalogs)))
    return bool(cedarpy.validate_policies(f'@id("x") {policy}', schema))


A = catalog(
    "a",
    method(
        "a.get:x/y",
        "view",
        ("name", "family"),
        ("n", "unsigned"),
        ("on", "boolean"),
        ("ids", "task-ids"),
        ("o", "object"),
    ),
)
B = catalog("b", method("b", "admin", ("name", "string")))


@pytest.mark.parametrize(
    "condition",
    [
        'context.args has name && context.args.name like "x*"',
        "context.args has n && context.args.n < 3",
        "context.args has on && context.args.on",
        'context.args has ids && context.args.ids.contains("x")',
        'context has task && context.task == "x"',
        "context.agent",
        'resource.protocol == "xmlrpc"',
        'principal.issuer == "i" && principal.subject == "s" && principal.groups.contains("g")',
    ],
)
def test_a_policy_can_read_the_arguments_of_the_catalog(condition: str) -> None:
    """Every argument with a policy type, the task, the agent mark and the attributes of principal
    and resource have their types.
    """
    assert valid(
        f'permit (principal, action == Action::"a.get:x/y", resource) when {{ {condition} }};', A
    )


@pytest.mark.parametrize(
    "condition",
    [
        'context.args.name == "x"',
        "context.args has n && context.args.n",
        'context.args has n && context.args.n == "3" && context.args.n',
        "context.args.o",
        "context.args.nothing",
        'context.task == "x"',
        "context.nothing",
        'principal.email == "x"',
    ],
)
def test_a_policy_cannot_read_anything_else(condition: str) -> None:
    """An unguarded optional argument, an unknown one, one without a policy type, and a type error
    do not validate.
    """
    assert not valid(
        f'permit (principal, action == Action::"a.get:x/y", resource) when {{ {condition} }};', A
    )


def test_methods_are_in_their_permission_and_permissions_have_no_context() -> None:
    """A policy on a permission covers the methods of every catalog in it, and must guard arguments
    that not all of them have.
    """
    assert valid(
        'permit (principal, action in Action::"admin", resource) when { context.agent };', A, B
    )
    assert valid(
        'permit (principal, action, resource) when { context.args has name && context.args.name == "x" };',
        A,
        B,
    )
    # No method is in it: what the shipped policies grant need not be there.
    assert valid('permit (principal, action in Action::"trigger", resource);', A, B)
    assert valid('permit (principal, action in Action::"view", resource);')
    assert not valid('permit (principal, action in Action::"triggers", resource);', A, B)
    assert not valid('permit (principal, action == Action::"nothing", resource);', A, B)


def test_catalogs_may_share_a_method_if_they_agree() -> None:
    """The same permission and the same argument types are one action; order and other arguments do
    not matter.
    """
    one = catalog("one", method("m", "view", ("a", "string"), ("b", "object")))
    two = catalog("two", method("m", "view", ("c", "any"), ("a", "family")))
    assert list(actions_of([one, two])) == ["m"]


@pytest.mark.parametrize(
    "other",
    [
        method("m", "admin", ("a", "string")),
        method("m", "view", ("a", "integer")),
        method("m", "view"),
    ],
)
def test_catalogs_that_do_not_agree_are_refused(other: Method) -> None:
    """A method with two meanings would give a policy two meanings; the error names both catalogs."""
    with pytest.raises(ConfigError) as caught:
        actions_of([catalog("one", method("m", "view", ("a", "string"))), catalog("two", other)])
    (problem,) = caught.value.problems
    assert problem.location == "catalogs/two.toml: methods.m"
    assert "catalogs/one.toml" in problem.message


def test_a_method_cannot_have_the_name_of_a_permission() -> None:
    """A policy on the permission would be one on the method."""
    with pytest.raises(ConfigError):
        actions_of([catalog("one", method("admin", "view"))])
