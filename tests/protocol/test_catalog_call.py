"""Every key of a catalog has its effect in every protocol, or is refused by name when it loads.

Each row of the table shows what the key changes: the same method with it and without it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode

import pytest

from proxy.catalog import loading
from proxy.catalog.loading import parse_catalog
from proxy.catalog.model import Argument, WireProtocol
from proxy.catalog.model import Method as CatalogMethod
from proxy.errors import ConfigError, Rejected
from proxy.gate.ports import Codec
from proxy.model import Call, Peer, PreparedCall, Principal, Reason, Request, UpstreamRequest, Value
from proxy.protocol.catalog_call import with_prepared, without
from proxy.protocol.codec_table import CodecOptions, make_mounts
from proxy.protocol.xmlrpc.codec import decode_call, encode_call

ALICE = Principal("https://idp.example", "okta", "alice", ("worker",))
BOB = Principal("https://idp.example", "okta", "bob", ("worker",))
MARK = " [okta:alice]"
PROTOCOLS: tuple[WireProtocol, ...] = ("luigi", "xmlrpc")
FORM = b"application/x-www-form-urlencoded"
ARGUMENTS = """
arguments = [
  { name = "w", type = "string" },
  { name = "t", type = "string" },
  { name = "ids", type = "task-ids" },
]
"""


class Method:
    """One method of a catalog in one protocol, and calls of it as a client sends them."""

    def __init__(
        self,
        protocol: WireProtocol,
        keys: str = "",
        *,
        permission: str = "work",
        arguments: str = ARGUMENTS,
        catalog: str = "",
        help: str = "Do it.",
    ) -> None:
        text = f'name = "x"\nprotocol = "{protocol}"\n{catalog}\n[methods.m]\n'
        text += f'permission = "{permission}"\nhelp = "{help}"\n{arguments}\n{keys}\n'
        self.protocol = protocol
        self.catalog = parse_catalog(text, "x.toml")
        mounts = make_mounts(CodecOptions("x", self.catalog, 10, 100_000))
        self._mounts = {mount.root or "/RPC2": mount.codec for mount in mounts}

    @property
    def codec(self) -> Codec:
        """The codec of the upstream's own protocol."""
        return self._mounts["/api" if self.protocol == "luigi" else "/RPC2"]

    @property
    def door(self) -> Codec:
        """The codec that speaks XML-RPC."""
        return self._mounts["/RPC2"]

    def call(self, **args: Value) -> Call:
        """Decode a call with these arguments, in order."""
        path, kind = "/RPC2", b"text/xml"
        if self.protocol == "luigi":
            path, kind = "/api/m", FORM
            body = urlencode({"data": json.dumps(args)}).encode()
        else:
            body = encode_call("m", args.values())
        headers = {b"host": b"gate", b"content-type": kind}
        request = Request("R", "POST", path, None, headers, body, Peer("127.0.0.1", 1, None, ""))
        [call] = self.codec.decode(request, path, ALICE).calls
        return call

    def encode(self, **args: Value) -> UpstreamRequest:
        """Encode a call with these arguments for the upstream."""
        call, empty = self.call(**args), Peer("127.0.0.1", 1, None, "")
        return self.codec.encode(call, ALICE, Request("R", "POST", "/", None, {}, b"", empty))

    def sent(self, **args: Value) -> list[Value]:
        """Return the values of the arguments as the upstream reads them."""
        body = self.encode(**args).body
        if self.protocol == "xmlrpc":
            return decode_call(body)[1]
        return list(json.loads(parse_qs(body.decode())["data"][0]).values())

    def refused(self, **args: Value) -> str:
        """Return why a call is refused, or an empty string."""
        try:
            self.call(**args)
        except Rejected as error:
            return f"{error.reason}: {error.detail}"
        return ""

    def introspect(self, name: str) -> bytes:
        """Return what the gate answers about the method."""
        body = encode_call(name, ["m"])
        headers = {b"host": b"gate", b"content-type": b"text/xml"}
        peer = Peer("127.0.0.1", 1, None, "")
        request = Request("R", "POST", "/RPC2", None, headers, body, peer)
        [call] = self.door.decode(request, "/RPC2", ALICE).calls
        return self.door.introspect(call, lambda _method: True).body


Check: TypeAlias = Callable[[WireProtocol], None]


def check_task(protocol: WireProtocol) -> None:
    """Policies see the task of the call."""
    assert Method(protocol).call(w="w", t="etl.A_1").task is None
    assert Method(protocol, 'task = ["t"]').call(w="w", t="etl.A_1").task == "etl.A_1"
    assert Method(protocol, 'task = ["t", "w"]').call(w="w", t="").task == "w"


def check_related_tasks(protocol: WireProtocol) -> None:
    """Policies decide on each of them."""
    method = Method(protocol, 'task = ["t"]\nrelated_tasks = ["ids"]')
    given: dict[str, Value] = {"w": "w", "t": "A_1", "ids": ["A_1", "B_1", "B_1", "C_1"]}
    assert method.call(**given).related_tasks == ("B_1", "C_1")
    assert Method(protocol).call(**given).related_tasks == ()


def check_worker(protocol: WireProtocol) -> None:
    """The upstream gets the worker with the identity's mark; nothing else is marked."""
    method = Method(protocol, 'worker = "w"')
    assert method.sent(w="me", t="me") == ["me" + MARK, "me"]
    assert Method(protocol).sent(w="me", t="me") == ["me", "me"]
    assert method.call(w="me", t="me").args["w"] == "me"
    assert method.refused(w="other [okta:bob]", t="x") == "not-your-worker: "
    assert method.refused(w="", t="x") == "bad-arguments: m: w must be given"
    assert method.refused() == "bad-arguments: m: w must be given"


def check_must_start_with(protocol: WireProtocol) -> None:
    """A task of another family is refused."""
    method = Method(protocol, 'must_start_with = { t = "w" }')
    assert method.refused(w="etl.A", t="prod.B_1") == "bad-arguments: m: t must start with w"
    assert method.refused(w="etl.A", t="etl.A_1") == ""
    assert Method(protocol).refused(w="etl.A", t="prod.B_1") == ""


def check_heartbeat(protocol: WireProtocol) -> None:
    """A call of the worker alone shares its record, and is served before others."""
    method = Method(protocol, 'worker = "w"\nheartbeat = true')
    assert method.call(w="me").heartbeat == "me"
    assert method.call(w="me", t="more").heartbeat is None
    assert (method.encode(w="me").kind, method.sent(w="me")) == ("heartbeat", ["me" + MARK])
    plain = Method(protocol, 'worker = "w"')
    assert (plain.call(w="me").heartbeat, plain.encode(w="me").kind) == (None, "write")


def sharing(request: UpstreamRequest) -> tuple[bool, bool]:
    """Return whether a flight is shared, and whether an answer is kept."""
    return request.shared, request.cacheable


def check_shared(protocol: WireProtocol) -> None:
    """A view shares flights and cache: luigid's unless it says no, others' if they say yes."""
    default = Method(protocol, permission="view").encode()
    assert sharing(default) == ((True, True) if protocol == "luigi" else (False, False))
    for value, expected in (("true", (True, True)), ("false", (False, False))):
        method = Method(protocol, f"shared = {value}", permission="view")
        assert sharing(method.encode()) == expected


def check_no_cache(protocol: WireProtocol) -> None:
    """Such a view shares nothing, not even an answer on its way."""
    method = Method(protocol, "no_cache = true", permission="view")
    assert sharing(method.encode()) == (False, False)


def check_permission(protocol: WireProtocol) -> None:
    """The call needs it."""
    for permission in ("view", "work", "trigger", "admin"):
        assert Method(protocol, permission=permission).call().permission == permission


def check_help(protocol: WireProtocol) -> None:
    """It is what system.methodHelp says."""
    method = Method(protocol, help="Turn it round.")
    assert b"Turn it round." in method.introspect("system.methodHelp")


def check_returns(protocol: WireProtocol) -> None:
    """It is the first type that system.methodSignature says."""
    for returns, name in (("integer", b"int"), ("array", b"array")):
        answer = Method(protocol, f'returns = "{returns}"').introspect("system.methodSignature")
        assert answer.count(b"<string>" + name + b"</string>") >= 4


def check_arguments(protocol: WireProtocol) -> None:
    """Policies and records have the arguments by these names."""
    assert dict(Method(protocol).call(w="a", t="b").args) == {"w": "a", "t": "b"}


def check_allow_extra(protocol: WireProtocol) -> None:
    """Arguments that are not listed pass; of a call by position they are named by their number."""
    given: dict[str, Value] = {"w": "a", "t": "b", "ids": [], "3": 4}
    assert Method(protocol).refused(**given).startswith("bad-arguments: m: ")
    assert Method(protocol, "allow_extra = true").sent(**given) == ["a", "b", [], 4]
    assert Method(protocol, "allow_extra = true").call(**given).args["3"] == 4
    every = Method(protocol, catalog="allow_extra = true")
    assert every.sent(**given) == ["a", "b", [], 4]
    assert Method(protocol, "allow_extra = false", catalog="allow_extra = true").refused(**given)


def check_extra_type(protocol: WireProtocol) -> None:
    """Arguments that are not listed pass if they are of that type."""
    method = Method(protocol, 'extra_type = "unsigned"')
    given: dict[str, Value] = {"w": "a", "t": "b", "ids": []}
    assert method.sent(**given, **{"3": 4}) == ["a", "b", [], 4]
    refused = method.refused(**given, **{"3": "four"})
    assert refused.startswith("bad-arguments: m: ") and "non-negative integer" in refused


def check_suspended(protocol: WireProtocol) -> None:
    """The gate looks it up by the method's name, whatever the codec (tests/gate)."""
    for value in (True, False):
        method = Method(protocol, f"suspended_while_draining = {str(value).lower()}")
        assert method.catalog.methods["m"].suspended_while_draining is value


METHOD: dict[str, Check] = {
    "arguments": check_arguments,
    "permission": check_permission,
    "help": check_help,
    "allow_extra": check_allow_extra,
    "extra_type": check_extra_type,
    "heartbeat": check_heartbeat,
    "no_cache": check_no_cache,
    "shared": check_shared,
    "suspended_while_draining": check_suspended,
    "returns": check_returns,
    "task": check_task,
    "related_tasks": check_related_tasks,
    "worker": check_worker,
    "must_start_with": check_must_start_with,
}


def one(protocol: WireProtocol, keys: str) -> Method:
    """A method with one argument."""
    return Method(protocol, arguments=f'arguments = [{{ name = "a", {keys} }}]')


def check_name(protocol: WireProtocol) -> None:
    """It is the argument's name for policies, records and refusals."""
    assert one(protocol, 'type = "integer"').refused(a="x").startswith("bad-arguments: m: a must")


def check_type(protocol: WireProtocol) -> None:
    """Values of other types are refused."""
    assert one(protocol, 'type = "integer"').refused(a="x")
    assert not one(protocol, 'type = "string"').refused(a="x")


def check_required(protocol: WireProtocol) -> None:
    """A call without it is refused."""
    refused = one(protocol, 'type = "string", required = true').refused()
    assert refused == "bad-arguments: m: a is missing"
    assert not one(protocol, 'type = "string"').refused()


def check_nullable(protocol: WireProtocol) -> None:
    """Null is refused where it is not allowed."""
    assert one(protocol, 'type = "string", nullable = false').refused(a=None)
    assert not one(protocol, 'type = "string", nullable = true').refused(a=None)


def check_secret(protocol: WireProtocol) -> None:
    """The record withholds it."""
    assert one(protocol, 'type = "string", secret = true').call(a="x").secret_paths == (("a",),)
    assert one(protocol, 'type = "string"').call(a="x").secret_paths == ()


def check_argument_help(protocol: WireProtocol) -> None:
    """It is what system.methodHelp says of the argument."""
    method = one(protocol, 'type = "string", help = "Which one."')
    assert b"Which one." in method.introspect("system.methodHelp")


ARGUMENT: dict[str, Check] = {
    "name": check_name,
    "type": check_type,
    "required": check_required,
    "nullable": check_nullable,
    "secret": check_secret,
    "help": check_argument_help,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("key", METHOD)
def test_a_key_of_a_method_has_its_effect(key: str, protocol: WireProtocol) -> None:
    """In both protocols."""
    METHOD[key](protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("key", ARGUMENT)
def test_a_key_of_an_argument_has_its_effect(key: str, protocol: WireProtocol) -> None:
    """In both protocols."""
    ARGUMENT[key](protocol)


def test_the_tables_have_every_key() -> None:
    """A new key needs its row. Name, protocol and methods of a catalog are in each of them."""
    assert METHOD.keys() == loading._Method.model_fields.keys()
    assert ARGUMENT.keys() == loading._Argument.model_fields.keys()
    every = {"name", "protocol", "methods", "allow_extra"}
    assert every == loading._Catalog.model_fields.keys()


WITHOUT_EFFECT = {
    "a heartbeat of no worker": ("heartbeat = true", "heartbeat", "needs a worker"),
    "a task that is a list": ('task = ["ids"]', "task", "ids is never a text"),
    "a worker that is a list": ('worker = "ids"', "worker", "ids is never a text"),
    "a start of a list": (
        'must_start_with = { t = "ids" }',
        "must_start_with",
        "ids is never a text",
    ),
    "a shared call that acts": ("shared = true", "shared", "does not hold for the permission work"),
    "a type of nothing": (
        'allow_extra = false\nextra_type = "json"',
        "allow_extra",
        "contradicts extra_type",
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_key_without_an_effect_is_refused_by_name(name: str, protocol: WireProtocol) -> None:
    """At its line, when the catalog loads."""
    keys, key, message = WITHOUT_EFFECT[name]
    with pytest.raises(ConfigError) as error:
        Method(protocol, keys)
    [problem] = error.value.problems
    assert problem.location.endswith(f": methods.m.{key}")
    assert (problem.message, problem.hint[-1]) == (message, ".")


OTHERS: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "shared and not": (
        {"keys": "shared = true\nno_cache = true", "permission": "view"},
        "shared",
        "contradicts no_cache",
    ),
    "a heartbeat that says more": (
        {
            "keys": 'worker = "w"\nheartbeat = true',
            "arguments": 'arguments = [{ name = "w", type = "string" }, '
            '{ name = "x", type = "any", required = true }]',
        },
        "heartbeat",
        "needs a method whose only required argument is the worker",
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", OTHERS)
def test_contradictions_are_refused(name: str, protocol: WireProtocol) -> None:
    """One of the two would be dropped."""
    options, key, message = OTHERS[name]
    with pytest.raises(ConfigError) as error:
        Method(protocol, **options)
    [problem] = error.value.problems
    assert (problem.location.rpartition(".")[2], problem.message) == (key, message)


@pytest.mark.parametrize(
    "keys", ['worker = "path"', 'worker = "path"\nheartbeat = true', "allow_extra = true"]
)
def test_pages_refuse_what_only_calls_have(keys: str) -> None:
    """A page is a path: it names no worker, and nothing beside its arguments."""
    text = 'name = "x"\nprotocol = "luigi"\n[methods."page.root"]\npermission = "view"\n'
    text += f'help = "x"\narguments = [{{ name = "path", type = "string" }}]\n{keys}\n'
    with pytest.raises(ConfigError) as error:
        parse_catalog(text, "x.toml")
    assert {problem.message for problem in error.value.problems} == {"does not hold for a page"}


def test_no_identity_speaks_as_anothers_worker() -> None:
    """The mark is the identity's, and no stated id ends in one."""
    method = Method("xmlrpc", 'worker = "w"')
    call = method.call(w="me")
    request = Request("R", "POST", "/", None, {}, b"", Peer("127.0.0.1", 1, None, ""))
    sent = [decode_call(method.codec.encode(call, who, request).body)[1] for who in (ALICE, BOB)]
    assert sent == [["me [okta:alice]"], ["me [okta:bob]"]]
    with pytest.raises(Rejected) as error:
        method.call(w="me [okta:bob]")
    assert error.value.reason is Reason.NOT_YOUR_WORKER


def test_what_is_read_of_a_large_call_later_stays_in_it() -> None:
    """Of the arguments of its method: types, short texts, and whether something is empty."""
    names = ("x", "none", "o", "empty", "long", "n", "b", "on", "absent")
    method = CatalogMethod("m", "work", tuple(Argument(name, "any") for name in names))
    args: dict[str, Value] = {
        **{f"extra{number}": number for number in range(99)},
        **{"x": ["y"] * 9, "none": [], "o": {"a": 1}, "empty": {}, "long": "z" * 9_999},
        **{"n": 5, "b": b"b", "on": True},
    }
    call = Call("up", "xmlrpc", "m", "work", args, related_tasks=("a", "b"))
    left = with_prepared(call, method, PreparedCall(0, b"{}", None))
    kept = {"x": [None], "none": [], "o": {"": None}, "empty": {}, "long": "z" * 4_096}
    assert left.args == kept | {"n": 5, "b": b"b", "on": True}
    assert left.related_tasks == ()


def test_of_a_method_outside_the_catalog_some_arguments_stay() -> None:
    """The rest of a large call takes little memory, however many arguments it has."""
    call = Call("up", "xmlrpc", "m", "work", {"n" * 9_000 + str(n): n for n in range(100)})
    left = with_prepared(call, None, PreparedCall(0, b"{}", None)).args
    assert len(left) <= 16
    assert all(len(name) <= 4_096 for name in left)


def test_arguments_are_left_out_by_name() -> None:
    """In the order of the others."""
    call = Call("up", "xmlrpc", "m", "work", {"a": 1, "b": 2, "c": 3})
    assert list(without(call, ("b", "x")).args) == ["a", "c"]
