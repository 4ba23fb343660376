from pathlib import Path

import pytest

from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Argument, Catalog, Method
from proxy.catalog.types import TYPES
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import Fault, decode_response, encode_response
from proxy.protocol.xmlrpc.introspection import (
    INTROSPECTION,
    answer_introspection,
    list_methods,
    method_help,
    method_signature,
)
from tests.support.paths import ROOT

CATALOGS = ROOT / "policies" / "catalogs"
VIEW = Method(
    "view",
    "view",
    (Argument("task_id", "string", required=True), Argument("deep", "boolean")),
    returns="object",
    help="Looks.",
)
TRIGGER = Method("trigger", "trigger", (), returns="null", help="Runs.")
CATALOG = Catalog("test", "xmlrpc", {"view": VIEW, "trigger": TRIGGER})
SYSTEM = ["system.listMethods", "system.methodHelp", "system.methodSignature", "system.multicall"]


def looks_only(method: str) -> bool:
    """The rights of a caller that may only look."""
    return CATALOG.methods[method].permission == "view"


def anything(method: str) -> bool:
    """The rights of a caller that may do everything."""
    return True


def nothing(method: str) -> bool:
    """The rights of a caller that may do nothing."""
    return False


def test_a_caller_is_told_of_what_it_may_call() -> None:
    """In order, with the system methods, which are everyone's."""
    assert list_methods(CATALOG, anything) == [*SYSTEM, "trigger", "view"]
    assert list_methods(CATALOG, looks_only) == [*SYSTEM, "view"]
    assert list_methods(CATALOG, nothing) == SYSTEM


@pytest.mark.parametrize("ask", ["system.methodSignature", "system.methodHelp"])
def test_a_forbidden_method_looks_like_one_that_does_not_exist(ask: str) -> None:
    """The answers are equal, so they cannot be used to find out what there is."""
    forbidden = answer_introspection(ask, ["trigger"], CATALOG, looks_only)
    unknown = answer_introspection(ask, ["no.such.method"], CATALOG, looks_only)
    assert isinstance(forbidden, Fault)
    assert forbidden == unknown
    assert not isinstance(answer_introspection(ask, ["trigger"], CATALOG, anything), Fault)


def test_a_signature_for_each_number_of_arguments() -> None:
    """The answer's type first; arguments at the end may be left out, those that are required may
    not.
    """
    assert method_signature(CATALOG, "view", anything) == [
        ["struct", "string"],
        ["struct", "string", "boolean"],
    ]
    assert method_signature(CATALOG, "trigger", anything) == [["nil"]]
    late = Method(
        "late",
        "view",
        (
            Argument("a", "any"),
            Argument("b", "integer", required=True),
            Argument("c", "string-list"),
        ),
    )
    assert method_signature(Catalog("test", "xmlrpc", {"late": late}), "late", anything) == [
        ["undef", "undef", "int"],
        ["undef", "undef", "int", "array"],
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            ("string", "string"),
            ("task-id", "string"),
            ("status", "string"),
            ("url", "string"),
            ("integer", "int"),
            ("unsigned", "int"),
        ),
        *(
            ("number", "double"),
            ("finite", "double"),
            ("boolean", "boolean"),
            ("string-list", "array"),
            ("task-ids", "array"),
        ),
        *(
            ("object", "struct"),
            ("resources", "struct"),
            ("params", "struct"),
            ("any", "undef"),
            ("json", "undef"),
        ),
    ],
)
def test_the_type_of_an_argument_in_the_words_of_xmlrpc(kind: str, name: str) -> None:
    """A client generator in a typed language can go by it."""
    method = Method("m", "view", (Argument("a", kind, required=True),))
    assert method_signature(Catalog("test", "xmlrpc", {"m": method}), "m", anything) == [
        ["undef", name]
    ]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_the_catalogs_has_a_name(kind: str) -> None:
    """A type that is new in the catalogs is at worst unknown here, never an error."""
    method = Method("m", "view", (Argument("a", kind, required=True),))
    signatures = method_signature(Catalog("test", "xmlrpc", {"m": method}), "m", anything)
    assert isinstance(signatures, list)
    [signature] = signatures
    assert isinstance(signature, list)
    assert signature[1] in {"string", "int", "double", "boolean", "array", "struct", "undef"}


def test_help_names_what_it_does_and_every_argument() -> None:
    """From the catalog alone: what it does, then a line for each argument."""
    assert method_help(CATALOG, "view", anything) == (
        "Looks.\n  task_id (a string; required, may be nil)\n  deep (true or false; optional, may be nil)"
    )
    assert method_help(CATALOG, "trigger", anything) == "Runs."


@pytest.mark.parametrize("name", SYSTEM)
def test_the_system_methods_describe_themselves(name: str) -> None:
    """Even to a caller who may do nothing else."""
    assert method_signature(CATALOG, name, nothing) != []
    text = method_help(CATALOG, name, nothing)
    assert isinstance(text, str)
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("system.listMethods", ["x"]),
        ("system.methodHelp", []),
        ("system.methodHelp", [1]),
        ("system.methodHelp", [["view"]]),
        ("system.methodSignature", [None]),
        ("system.methodSignature", ["view", "view"]),
    ],
)
def test_wrong_arguments_are_a_fault(name: str, params: list[Value]) -> None:
    """The code is JSON-RPC's for invalid parameters, which XML-RPC servers use too."""
    fault = answer_introspection(name, params, CATALOG, anything)
    assert isinstance(fault, Fault)
    assert fault.code == -32602


@pytest.mark.parametrize("path", sorted(CATALOGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_catalogs_can_be_described(path: Path) -> None:
    """Every method of theirs: listed, with a signature and a help that XML-RPC can carry."""
    catalog = load_catalog(path)
    names = list_methods(catalog, anything)
    assert set(names) == catalog.methods.keys() | set(SYSTEM)
    for name in names:
        assert isinstance(name, str)
        for ask in INTROSPECTION - {"system.listMethods"}:
            answer = answer_introspection(ask, [name], catalog, anything)
            assert not isinstance(answer, Fault)
            assert answer
            assert decode_response(encode_response(answer)) == answer
