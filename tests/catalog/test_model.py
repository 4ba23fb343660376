from dataclasses import FrozenInstanceError

import pytest

from proxy.catalog.model import Argument, Method
from proxy.catalog.types import TYPES

METHOD = Method(
    "m",
    "work",
    (
        Argument("a", "string", required=True),
        Argument("b", "object", secret=True),
        Argument("c", "no-markup", nullable=False),
    ),
)


def test_a_method_derives_what_a_call_needs() -> None:
    """Names, checks, required arguments, secrets and escaped ones follow from the arguments."""
    assert METHOD.names == ("a", "b", "c")
    assert METHOD.required == ("a",)
    assert METHOD.secret_args == (("b",),)
    assert METHOD.checks["c"] == (TYPES["no-markup"], False)


def test_a_method_is_frozen() -> None:
    """No call can change what the next one is checked by."""
    with pytest.raises(FrozenInstanceError):
        METHOD.names = ()  # type: ignore[misc]  # refused by the type checker too


def test_derived_attributes_do_not_count_in_a_comparison() -> None:
    """Two methods are equal when they were made from the same arguments."""
    assert Method("m", "work", METHOD.arguments) == METHOD
    assert Method("m", "view", METHOD.arguments) != METHOD


def test_policies_read_the_policy_type_of_an_argument() -> None:
    """An object has none."""
    assert [argument.policy_type for argument in METHOD.arguments] == ["string", None, None]
