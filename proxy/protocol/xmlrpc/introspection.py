"""Introspection: the gate's own answers to three ``system.`` methods, from a catalog.

``system.listMethods``, ``system.methodSignature`` and ``system.methodHelp`` show only methods that
the caller may call. A method that it may not call is answered exactly as one that does not exist,
so that the answers reveal nothing else. The four ``system.`` methods are open to every caller with
a role and are listed too.

A signature is the type of the answer and then those of the arguments, by position. Arguments at the
end may be left out, so a method has one signature for each number of arguments that it takes, the
shortest first. XML-RPC has no name for "any type": it is given as ``undef``, the word of servers
for a signature that they do not know.
"""

from collections.abc import Callable, Sequence

from proxy.catalog.model import Argument, Catalog
from proxy.catalog.types import TYPES
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.codec import Fault
from proxy.protocol.xmlrpc.multicall import MULTICALL

LIST_METHODS, METHOD_SIGNATURE, METHOD_HELP = (
    "system.listMethods",
    "system.methodSignature",
    "system.methodHelp",
)
INTROSPECTION = frozenset((LIST_METHODS, METHOD_SIGNATURE, METHOD_HELP))

_SYSTEM: dict[str, tuple[list[str], str]] = {
    LIST_METHODS: (["array"], "The names of the methods that you may call."),
    METHOD_HELP: (["string", "string"], "What a method does and what it takes."),
    METHOD_SIGNATURE: (
        ["array", "string"],
        "The types of a method: for each way to call it, of its answer and of its arguments.",
    ),
    MULTICALL: (
        ["array", "array"],
        "Makes several calls: takes structs of methodName and params, "
        "answers with arrays of one, or faults.",
    ),
}
_UNKNOWN_TYPE = "undef"
_OF_POLICY_TYPE = {"string": "string", "boolean": "boolean", "integer": "int", "strings": "array"}
_OF_ARGUMENT_TYPE = {
    "number": "double",
    "finite": "double",
    "positive": "double",
    **dict.fromkeys(("object", "resources", "params", "visibilities", "retry-policy"), "struct"),
}
_OF_ANSWER = {
    **dict.fromkeys(("string", "html"), "string"),
    "null": "nil",
    "boolean": "boolean",
    "integer": "int",
    "number": "double",
    "array": "array",
    "object": "struct",
}
_NO_SUCH_METHOD = Fault(
    403, f"callgate: there is no such method, or you may not call it [{Reason.UNKNOWN_METHOD}]"
)


def answer_introspection(
    name: str, params: Sequence[Value], catalog: Catalog, may_call: Callable[[str], bool]
) -> "Value | Fault":
    """Return the answer to the call of `name`, one of `INTROSPECTION`, with `params`.

    `may_call` tells for the name of a method whether the caller may call it.
    """
    if name == LIST_METHODS:
        if params:
            return Fault(-32602, f"callgate: {name} takes no argument [{Reason.BAD_ARGUMENTS}]")
        return list_methods(catalog, may_call)
    if len(params) != 1 or not isinstance(asked := params[0], str):
        return Fault(
            -32602, f"callgate: {name} takes the name of a method [{Reason.BAD_ARGUMENTS}]"
        )
    if name == METHOD_SIGNATURE:
        return method_signature(catalog, asked, may_call)
    return method_help(catalog, asked, may_call)


def list_methods(catalog: Catalog, may_call: Callable[[str], bool]) -> list[Value]:
    """Return the names of what the caller may call and of the ``system.`` methods, sorted."""
    return [*sorted({*filter(may_call, catalog.methods), *_SYSTEM})]


def method_signature(
    catalog: Catalog, name: str, may_call: Callable[[str], bool]
) -> "Value | Fault":
    """Return the signatures of a method, each a list of type names.

    A method that does not exist, or that the caller may not call, is a fault.
    """
    if name in _SYSTEM:
        return [[*_SYSTEM[name][0]]]
    method = catalog.methods.get(name)
    if method is None or not may_call(name):
        return _NO_SUCH_METHOD
    types = [_type(argument) for argument in method.arguments]
    least = max(
        (number for number, argument in enumerate(method.arguments, 1) if argument.required),
        default=0,
    )
    answer = _OF_ANSWER.get(method.returns, _UNKNOWN_TYPE)
    return [[answer, *types[:count]] for count in range(least, len(types) + 1)]


def method_help(catalog: Catalog, name: str, may_call: Callable[[str], bool]) -> "Value | Fault":
    """Return what the method does, then a line for each argument.

    A method that does not exist, or that the caller may not call, is a fault.
    """
    if name in _SYSTEM:
        return _SYSTEM[name][1]
    method = catalog.methods.get(name)
    if method is None or not may_call(name):
        return _NO_SUCH_METHOD
    return "\n".join([method.help or method.name, *map(_argument_help, method.arguments)])


def _argument_help(argument: Argument) -> str:
    need = "required" if argument.required else "optional"
    null = ", may be nil" if argument.nullable else ""
    about = f": {argument.help}" if argument.help else ""
    return f"  {argument.name} ({TYPES[argument.type].phrase}; {need}{null}){about}"


def _type(argument: Argument) -> str:
    if argument.type in _OF_ARGUMENT_TYPE:
        return _OF_ARGUMENT_TYPE[argument.type]
    plain = TYPES[argument.type].policy_type
    return _OF_POLICY_TYPE[plain] if plain is not None else _UNKNOWN_TYPE
