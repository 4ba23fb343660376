"""XML-RPC as clients speak it to the gate: to an XML-RPC server, and to luigid, which never spoke
it.

Both dialects share one reading (`proxy.protocol.xmlrpc.codec`), one way to refuse (a fault in a
200, which every client shows to its user; a missing or bad credential alone is a 401), the
unbundling of ``system.multicall``, and the gate's own answers to ``system.listMethods``,
``system.methodSignature`` and ``system.methodHelp``.

Positional arguments have no names on this wire: the catalog of the upstream names them in order.
luigid's methods may also be called with one struct of named arguments; an argument left out takes
luigid's default.

Refused before any XML is read: other types than XML in UTF-8 (a page can make a browser send
``text/plain`` anywhere), calls that a browser says come from another site, a query, and every
Content-Encoding but one whole member of gzip.
"""

import asyncio
import re
import secrets
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from proxy.catalog.checking import check_arguments, name_arguments
from proxy.catalog.loading import Catalog, Method
from proxy.errors import Rejected, Unavailable
from proxy.model import (
    Call,
    DateTime,
    Principal,
    Reason,
    Request,
    Response,
    Stream,
    Target,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.luigi import api as luigi
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.refusal import Refusal
from proxy.protocol.same_origin import require_same_origin
from proxy.protocol.strict_json import MAX_ELEMENTS, Plain
from proxy.protocol.xmlrpc.codec import (
    Fault,
    decode_call,
    decode_response,
    encode_call,
    encode_fault,
    encode_response,
)
from proxy.protocol.xmlrpc.introspection import INTROSPECTION, answer_introspection
from proxy.protocol.xmlrpc.json_to_xml import json_to_xml
from proxy.protocol.xmlrpc.json_to_xml_stream import JsonToXml
from proxy.protocol.xmlrpc.multicall import MULTICALL, decode_multicall, encode_multicall_results

_XML = b"text/xml"
# RFC 9110 section 8.3
_XML_IN_UTF8 = re.compile(
    rb'(?:text|application)/xml(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?', re.IGNORECASE
)
_XML_IN_ANY = re.compile(
    rb'(?:text|application)/xml(?:[ \t]*;[ \t]*charset=("?)([A-Za-z0-9._:-]{1,40})\1)?[ \t]*(?:;.*)?',
    re.IGNORECASE,
)
_NO_STORE = ((b"cache-control", b"no-store"),)
_FAULT_CODES = {
    Reason.MALFORMED_CALL: -32700,
    Reason.AMBIGUOUS_CALL: -32600,
    Reason.CALL_TOO_COMPLEX: -32600,
    Reason.BAD_ARGUMENTS: -32602,
}
# bytes of all inner answers of a bundle, which have to be held to become its array
MAX_BATCH_ANSWER_BYTES = 16 * 1024 * 1024

GATE_METHODS = INTROSPECTION | {MULTICALL}
_NOT_IN_JSON = frozenset((bytes, DateTime))
_SLICE = 32_768  # bytes of JSON that are transcoded at once, in 4 ms


@dataclass(slots=True)
class ByteBudget:
    """How many bytes of inner answers one bundle may still hold."""

    left: int = MAX_BATCH_ANSWER_BYTES

    def spend(self, size: int) -> None:
        """Take up `size` bytes. Raises `Rejected` when there is no room for them."""
        if size > self.left:
            raise Rejected(
                Reason.CALL_TOO_COMPLEX, "the answers are too large for one system.multicall"
            )
        self.left -= size


@dataclass(frozen=True, slots=True)
class Bundle:
    """The calls of one ``system.multicall``, in order; an entry that is no call stands there as its
    rejection.
    """

    items: tuple[Call | Rejected, ...]
    room: ByteBudget = field(default_factory=ByteBudget)


class XmlRpcCodec(ABC):
    """What both XML-RPC dialects have in common. A subclass says how a call is made, sent on and
    answered.
    """

    def __init__(
        self, upstream: str, catalog: Catalog, path: str, *, batch_calls: int, body_bytes: int
    ) -> None:
        """`path` is where the upstream listens; `batch_calls` and `body_bytes` bound a bundle and
        an inflated body.
        """
        self._upstream = upstream
        self._catalog = catalog
        self._path = path
        self._target = path.encode("ascii")
        self._batch_calls = batch_calls
        self._body_bytes = body_bytes

    def decode(self, request: Request, path: str, principal: Principal) -> Call | Bundle:
        """The call or the bundle in `request`, by `principal`. Raises `Rejected`."""
        if request.http_method != "POST":
            raise Rejected(Reason.METHOD_NOT_ALLOWED, "XML-RPC takes POST")
        require_same_origin(request.headers, tls=request.peer.tls is not None)
        if request.query:
            raise Rejected(Reason.AMBIGUOUS_CALL, "XML-RPC takes no query")
        content_type = request.headers.get(b"content-type", b"")
        if content_type != _XML and _XML_IN_UTF8.fullmatch(content_type) is None:
            raise Rejected(Reason.MALFORMED_CALL, "the Content-Type must be text/xml, in UTF-8")
        body = self._inflate(request) if b"content-encoding" in request.headers else request.body
        name, params = decode_call(body, max_elements=MAX_ELEMENTS)
        if name not in GATE_METHODS:
            return self._make_call(name, params, principal)
        if name != MULTICALL:
            return self._call_or_introspection(name, params, principal)
        entries = decode_multicall(params, max_calls=self._batch_calls)
        if not entries:
            # there is no inner call to leave a record
            return Call(
                self._upstream, self._catalog.protocol, MULTICALL, "view", {}, target=Target.GATE
            )
        return Bundle(tuple(self._item(entry, principal) for entry in entries))

    def _inflate(self, request: Request) -> bytes:
        """The body, of which gzip is undone, and never beyond the limit for a plain one."""
        if request.headers[b"content-encoding"] != b"gzip":
            raise Rejected(Reason.MALFORMED_CALL, "no Content-Encoding but gzip is read")
        stream = zlib.decompressobj(wbits=31)
        try:
            body = stream.decompress(request.body, self._body_bytes)
        except zlib.error:
            raise Rejected(Reason.MALFORMED_CALL, "the gzip body is damaged") from None
        if stream.unconsumed_tail:
            raise Rejected(Reason.BODY_TOO_LARGE)
        if not stream.eof or stream.unused_data:
            raise Rejected(Reason.MALFORMED_CALL, "the gzip body is cut short or followed by more")
        return body

    def _item(
        self, entry: "tuple[str, list[Value]] | Rejected", principal: Principal
    ) -> Call | Rejected:
        if isinstance(entry, Rejected):
            return entry
        try:
            return self._call_or_introspection(*entry, principal)
        except Rejected as error:
            return error

    def _call_or_introspection(self, name: str, params: list[Value], principal: Principal) -> Call:
        if name in INTROSPECTION:
            args: dict[str, Value] = {
                "method" if number == 0 else str(number): value
                for number, value in enumerate(params)
            }
            return Call(
                self._upstream, self._catalog.protocol, name, "view", args, target=Target.GATE
            )
        return self._make_call(name, params, principal)

    def introspect(self, call: Call, may: Callable[[Method], bool]) -> Response:
        """The gate's own answer to a ``system.`` method, filtered by what the caller may call."""
        if call.method == MULTICALL:
            return self.render_batch(())
        answer = answer_introspection(call.method, list(call.args.values()), self._catalog, may)
        if isinstance(answer, Fault):
            return Response(
                200, encode_fault(answer.code, answer.text), _XML, _NO_STORE, outcome="fault"
            )
        return Response(200, encode_response(answer), _XML, _NO_STORE)

    def render(self, refusal: Refusal) -> Response:
        """What `told` says of it, in a 200; in HTTP's own words where XML-RPC has none: who are
        you, and not with GET.
        """
        if refusal.status == 401:
            return luigi.json_refusal(refusal)
        if refusal.status == 405:
            reply = luigi.json_refusal(refusal)
            # RFC 9110 section 15.5.6
            return replace(reply, headers=(*reply.headers, (b"allow", b"POST")))
        headers: tuple[tuple[bytes, bytes], ...] = _NO_STORE
        if refusal.retry_after is not None:
            headers = (*headers, (b"retry-after", str(refusal.retry_after).encode("ascii")))
        told = self.as_value(refusal)
        body = (
            encode_fault(told.code, told.text) if isinstance(told, Fault) else encode_response(told)
        )
        return Response(200, body, _XML, headers)

    def as_value(self, refusal: Refusal) -> "Value | Fault":
        """A fault with the HTTP status as its code (JSON-RPC's codes where the call itself is at
        fault) and the one line.
        """
        return Fault(_FAULT_CODES.get(refusal.reason, refusal.status), refusal.message)

    def render_batch(self, results: Sequence[Value | Fault | Refusal]) -> Response:
        """The answer array of a ``system.multicall``."""
        array = [self.as_value(r) if isinstance(r, Refusal) else r for r in results]
        return Response(200, encode_multicall_results(array), _XML, _NO_STORE)

    async def read_result(self, reply: Response, room: ByteBudget) -> "Value | Fault":
        """What one inner call was answered, out of the reply that it would have got alone.

        Raises `Rejected` when there is no `room` for it, or it cannot be read as one value; then a
        stream is not read to its end, and the caller closes it.
        """
        body = reply.body
        if reply.stream is None:
            room.spend(len(body))
        else:
            parts: list[bytes] = []
            async for part in reply.stream:
                room.spend(len(part))
                parts.append(part)
            body = b"".join(parts)
        return decode_response(body)

    @abstractmethod
    def _make_call(self, name: str, params: list[Value], principal: Principal) -> Call:
        """The call of method `name` with positional `params`, by `principal`. Raises `Rejected`."""

    @abstractmethod
    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """The call as the upstream will get it."""

    @abstractmethod
    def answer(self, call: Call, principal: Principal, answer: UpstreamResponse) -> Response:
        """The upstream's answer, for the caller. Raises `Unavailable` when it is none."""


class XmlRpcServer(XmlRpcCodec):
    """XML-RPC in front of an XML-RPC server (supervisord, Cobbler, …)."""

    def _make_call(self, name: str, params: list[Value], principal: Principal) -> Call:
        method = self._catalog.methods.get(name)
        if method is None:
            args: dict[str, Value] = {str(number): value for number, value in enumerate(params)}
            return Call(self._upstream, "xmlrpc", name, "admin", args, in_catalog=False)
        args = name_arguments(method, params)
        check_arguments(method, args)
        return Call(
            self._upstream, "xmlrpc", name, method.permission, args, secret_paths=method.secret_args
        )

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """The call as a fresh document: arguments are in wire order, since they were named in that
        order.
        """
        body = encode_call(call.method, call.args.values())
        if call.permission != "view":
            return UpstreamRequest("POST", self._target, _XML, body)
        return UpstreamRequest(
            "POST",
            self._target,
            _XML,
            body,
            kind="read",
            cacheable=not self._catalog.methods[call.method].fresh,
        )

    def answer(self, call: Call, principal: Principal, answer: UpstreamResponse) -> Response:
        """The upstream's own document, relayed: it is the upstream that clients trust for it."""
        if answer.status >= 500:
            raise Unavailable(
                Reason.UPSTREAM_ERROR, f"the upstream answered {answer.status}", sent=True
            )
        if answer.status != 200:
            raise Unavailable(
                Reason.UPSTREAM_INVALID, f"the upstream answered {answer.status}", sent=True
            )
        content_type = answer.headers.get(b"content-type", b"")
        if content_type != _XML:
            content_type = _xml_type(content_type)
        if answer.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Unavailable(
                Reason.UPSTREAM_INVALID, "the upstream answered compressed, unasked", sent=True
            )
        outcome = "ok" if answer.body.find(b"<fault>", 0, 512) < 0 else "fault"
        return Response(
            200,
            answer.body,
            content_type,
            _NO_STORE,
            stream=answer.stream,
            length=answer.length,
            outcome=outcome,
        )


def _xml_type(given: bytes) -> bytes:
    """The Content-Type to relay an answer of type `given` with: XML in its charset. Raises
    `Unavailable` for what is no XML.
    """
    kind = _XML_IN_ANY.fullmatch(given)
    if kind is None:
        name = "HTML" if given[:9].lower() == b"text/html" else "something other than XML"
        raise Unavailable(Reason.UPSTREAM_INVALID, f"the upstream answered {name}", sent=True)
    return _XML if kind[2] is None else b"text/xml; charset=" + kind[2]


class LuigiBridge(XmlRpcCodec):
    """XML-RPC in front of luigid: ``/RPC2`` answers with what ``/api/<method>`` answers. Pages are
    no methods here.
    """

    def __init__(
        self,
        upstream: str,
        catalog: Catalog,
        path: str,
        *,
        batch_calls: int,
        body_bytes: int,
        batches: BatchIdSigner | None = None,
    ) -> None:
        """As above; `path` is a base path on luigid, and `batches` as in `luigi.LuigiApi`."""
        self._batches = batches or BatchIdSigner(secrets.token_bytes(32), upstream)
        methods = {
            name: method for name, method in catalog.methods.items() if not name.startswith("page.")
        }
        super().__init__(
            upstream,
            replace(catalog, methods=methods),
            path,
            batch_calls=batch_calls,
            body_bytes=body_bytes,
        )

    def _make_call(self, name: str, params: list[Value], principal: Principal) -> Call:
        method = self._catalog.methods.get(name)
        if method is None:
            return Call(
                self._upstream,
                "luigi",
                name,
                "admin",
                {str(n): v for n, v in enumerate(params)},
                in_catalog=False,
            )
        named = params[0] if len(params) == 1 else None
        args = Plain(named if type(named) is dict else name_arguments(method, params))
        _json_only(method, args.values())
        return luigi.make_call(self._upstream, self._catalog, name, args, principal, self._batches)

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """As the JSON API: one encoding for luigid, whichever door the call came through."""
        return luigi.encode(call, self._catalog, principal, self._path)

    def answer(self, call: Call, principal: Principal, answer: UpstreamResponse) -> Response:
        """luigid's JSON as a ``methodResponse``, in constant memory however long it is."""
        luigi.check_answer(call, answer)
        if answer.stream is not None:
            return Response(
                200, b"", _XML, _NO_STORE, stream=_XmlStream(answer.stream, JsonToXml())
            )
        body = answer.body
        if call.method in luigi.REWRITTEN_METHODS:
            body = luigi.rewrite_worker_answer(call, principal, body, self._batches)
        return Response(200, json_to_xml(body), _XML, _NO_STORE)

    def as_value(self, refusal: Refusal) -> "Value | Fault":
        """As every XML-RPC refusal, but a denied ``get_work`` is luigid's own "disabled" here too."""
        return luigi.DISABLED if luigi.is_worker_shutdown(refusal) else super().as_value(refusal)


class _XmlStream:
    """A stream of luigid's JSON, read as XML-RPC, a slice at a time: a slice becomes three times as
    long, in some milliseconds.
    """

    def __init__(self, stream: Stream, transcoder: JsonToXml) -> None:
        self._stream = stream
        self._transcoder: JsonToXml | None = transcoder
        self._rest = memoryview(b"")

    def __aiter__(self) -> "_XmlStream":
        return self

    async def __anext__(self) -> bytes:
        while self._transcoder is not None:
            try:
                if self._rest:
                    await asyncio.sleep(0)  # whoever waits for something small goes first
                else:
                    self._rest = memoryview(await self._stream.__anext__())
                part = self._transcoder.feed(bytes(self._rest[:_SLICE]))
                self._rest = self._rest[_SLICE:]
            except StopAsyncIteration:
                transcoder, self._transcoder = self._transcoder, None
                part = transcoder.close()
            if part:
                return part
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Read no further."""
        self._transcoder = None
        await self._stream.aclose()


def _json_only(method: Method, values: Collection[Value]) -> None:
    """Refuse what JSON has no type for, at any depth: luigid could not be told it."""
    while values:
        if not _NOT_IN_JSON.isdisjoint(map(type, values)):
            raise Rejected(
                Reason.BAD_ARGUMENTS, f"{method.name}: luigid takes neither base64 nor dateTime"
            )
        inner: list[Value] = []
        for value in values:
            if type(value) is dict:
                inner += value.values()
            elif type(value) is list:
                inner += value
        values = inner
