"""XML-RPC over HTTP, as clients speak it to Callgate, whatever the upstream speaks.

Both codecs (`proxy.protocol.xmlrpc.server`, `proxy.protocol.xmlrpc.luigi_bridge`) share one reading
(`proxy.protocol.xmlrpc.codec`) and one way to refuse: a fault in a 200, which every client shows to
its user; only a missing or bad credential is a 401. They share the unbundling of
``system.multicall``, and the gate's own answers to ``system.listMethods``,
``system.methodSignature`` and ``system.methodHelp``.

Positional arguments have no names on this wire: the catalog of the upstream names them in order.

Rejected before any XML is read: other types than XML (a page can make a browser send ``text/plain``
anywhere), calls that a browser may send without its user's intent, a query, and every
Content-Encoding but one complete member of gzip. A request without a type is read as XML unless a
browser sent it.
"""

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from proxy.catalog.model import Catalog
from proxy.errors import Rejected
from proxy.model import (
    Batch,
    Call,
    Principal,
    Question,
    Reason,
    RejectedEntry,
    Request,
    Response,
    Target,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.codec import LARGE_BYTES, ByteBudget, Priority, Result, UnreadResult
from proxy.protocol.refusal import Refusal, json_refusal
from proxy.protocol.same_origin import require_same_origin
from proxy.protocol.strict_json import MAX_ELEMENTS
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.codec import (
    Fault,
    decode_call,
    decode_response,
    encode_fault,
    encode_response,
)
from proxy.protocol.xmlrpc.encodings import UTF_8
from proxy.protocol.xmlrpc.introspection import INTROSPECTION, answer_introspection
from proxy.protocol.xmlrpc.multicall import MULTICALL, decode_multicall, encode_multicall_results

XML = b"text/xml"
NO_STORE = ((b"cache-control", b"no-store"),)
GATE_METHODS = INTROSPECTION | {MULTICALL}
"""Methods that the gate answers itself."""

# How many times as long as itself a gzip body may become, beyond the first `_FREE_INFLATED_BYTES`.
# The XML of 100,000 task ids shrinks to a thirtieth at most; deflate's limit is 1,032.
MAX_INFLATION = 100
_FREE_INFLATED_BYTES = 1 << 20
_GZIP = (b"gzip", b"x-gzip")  # RFC 9110 section 8.4.1.3
_INFLATED_PIECE = 262_144  # bytes that are inflated at once

_XML_IN_UTF8 = re.compile(rb"text/xml; ?charset=utf-8", re.IGNORECASE)  # of most clients
# RFC 9110 section 8.3, with empty parameters and blanks around "=" as old clients have them.
_PARAMETER = re.compile(
    rb"[ \t]*+;[ \t]*+(?:([!#$%&'*+.^_`|~A-Za-z0-9-]++)[ \t]*+=[ \t]*+"
    rb"(?:([!#$%&'*+.^_`|~A-Za-z0-9:-]++)|\"([^\"\\]*+)\"))?"
)
_XML_TYPE = re.compile(
    rb"(?:text|application)/xml((?:" + _PARAMETER.pattern + rb")*)[ \t]*+", re.IGNORECASE
)
_CHARSET = re.compile(r"[A-Za-z0-9._:-]{1,40}")
# Headers of a browser, which always has a Content-Type for a body that a page's form sends.
_OF_BROWSERS = (b"origin", b"referer", b"cookie", b"sec-fetch-site", b"sec-fetch-mode")
_FAULT_CODES = {
    Reason.MALFORMED_CALL: -32700,
    Reason.AMBIGUOUS_CALL: -32600,
    Reason.CALL_TOO_COMPLEX: -32600,
    Reason.BAD_ARGUMENTS: -32602,
}


class XmlRpcCodec(ABC):
    """What both codecs of XML-RPC have in common.

    A subclass says how a call is made, encoded for the upstream and answered.
    """

    def __init__(
        self,
        upstream: str,
        catalog: Catalog,
        path: str,
        *,
        max_batch_calls: int,
        body_bytes: int,
        max_elements: int = MAX_ELEMENTS,
        public_origin: bytes = b"",
    ) -> None:
        """`path` is where the upstream listens.

        `max_batch_calls` bounds the calls of one ``system.multicall``, `body_bytes` an inflated
        body, `max_elements` the elements of its document.
        `public_origin` is Callgate's own as browsers name it.
        """
        self._upstream = upstream
        self._catalog = catalog
        self._path = path
        self._target = path.encode("ascii")
        self._max_batch_calls = max_batch_calls
        self._body_bytes = body_bytes
        self._max_elements = max_elements
        self._public_origin = public_origin
        self._templates = TemplateCache()

    def method_of(self, path: str) -> str:
        """Return an empty string: the method is in the body."""
        return ""

    def priority(self, path: str) -> Priority:
        """Return `NORMAL`: the path says nothing about the call."""
        return Priority.NORMAL

    def describe(self, method: str) -> str:
        """Return the method's name, which says what it does."""
        return method

    def decode(self, request: Request, path: str, principal: Principal) -> Batch:
        """Return the call or the calls in `request`, by `principal`. Raises `Rejected`."""
        if request.http_method != "POST":
            raise Rejected(Reason.METHOD_NOT_ALLOWED, "XML-RPC takes POST")
        headers = request.headers
        # Which method it is, is not known yet: no page is opened by such a POST.
        require_same_origin(request, acts=True, public_origin=self._public_origin)
        if request.query:
            raise Rejected(Reason.AMBIGUOUS_CALL, "XML-RPC takes no query")
        charset: str | None = None
        if headers.get(b"content-type") != XML:
            charset = _charset(headers)
        body = self._inflate(request) if b"content-encoding" in headers else request.body
        name, params = decode_call(
            body, self._templates, charset=charset, max_elements=self._max_elements
        )
        if name not in GATE_METHODS:
            call = self._make_call(name, params, principal)
            return Batch((call,), True, call.permission == "view")
        if name != MULTICALL:
            return Batch((self._call_or_introspection(name, params, principal),), True, True)
        return self._decode_batch(params, principal)

    def decoded_size(self, request: Request) -> int:
        """Return the bytes of the body out of its gzip, as its last four say (RFC 1952 2.3.1).

        More than the limit of a plain body counts as that.
        """
        body = request.body
        if b"content-encoding" not in request.headers:
            return request.size
        return min(int.from_bytes(body[-4:], "little"), self._body_bytes)

    def _inflate(self, request: Request) -> bytes:
        """Return the body out of its gzip, never beyond the limit of a plain one.

        Nor beyond the length that it claims, for which memory is reserved. It is inflated in
        pieces, so a body that is refused for its length or ratio was not inflated to its end.
        """
        if request.headers[b"content-encoding"].lower() not in _GZIP:
            raise Rejected(Reason.MALFORMED_CALL, "the Content-Encoding must be gzip, or absent")
        if not request.body.startswith(b"\x1f\x8b"):
            raise Rejected(Reason.MALFORMED_CALL, "the body is no gzip, as Content-Encoding says")
        claimed = self.decoded_size(request)
        if claimed > max(_FREE_INFLATED_BYTES, MAX_INFLATION * len(request.body)):
            raise Rejected(
                Reason.BODY_TOO_LARGE,
                f"by its last bytes, the gzip body becomes more than {MAX_INFLATION} times as long",
            )
        stream = zlib.decompressobj(wbits=31)
        parts: list[bytes] = []
        rest, size = request.body, 0
        try:
            while not stream.eof and size <= claimed:
                # One byte more than claimed, so that the end of the member is read, too.
                part = stream.decompress(rest, min(_INFLATED_PIECE, claimed + 1 - size))
                rest, size = stream.unconsumed_tail, size + len(part)
                parts.append(part)
                if not part and not rest:
                    break
        except zlib.error:
            raise Rejected(Reason.MALFORMED_CALL, "the gzip body is damaged") from None
        if size > claimed:
            if claimed == self._body_bytes:
                raise Rejected(Reason.BODY_TOO_LARGE)
            raise Rejected(Reason.MALFORMED_CALL, "the gzip body is longer than it says")
        if not stream.eof or stream.unused_data:
            raise Rejected(Reason.MALFORMED_CALL, "the gzip body is cut short or followed by more")
        return b"".join(parts)

    def _decode_batch(self, params: Sequence[Value], principal: Principal) -> Batch:
        calls: list[Call] = []
        rejected: list[RejectedEntry] = []
        entries = decode_multicall(params, max_calls=self._max_batch_calls)
        if not entries:
            # No inner call would leave a record.
            return Batch((self._gate_call(MULTICALL, {}),), True, True)
        for index, entry in enumerate(entries):
            if isinstance(entry, RejectedEntry):
                rejected.append(entry)
                continue
            try:
                calls.append(self._call_or_introspection(*entry, principal))
            except Rejected as error:
                rejected.append(RejectedEntry(index, error.reason, error.detail))
        return Batch(tuple(calls), False, True, tuple(rejected))

    def _call_or_introspection(
        self, name: str, params: Sequence[Value], principal: Principal
    ) -> Call:
        if name not in INTROSPECTION:
            return self._make_call(name, params, principal)
        # An argument too many is recorded and judged too.
        names = ["method", *map(str, range(1, len(params)))]
        return self._gate_call(name, dict(zip(names, params, strict=False)))

    def _gate_call(self, name: str, args: dict[str, Value]) -> Call:
        return Call(self._upstream, self._catalog.protocol, name, "view", args, target=Target.GATE)

    def introspect(self, call: Call, may_call: Callable[[str], bool]) -> Response:
        """Return the gate's own answer to a ``system.`` method.

        `may_call` filters it by what the caller may call.
        """
        if call.method == MULTICALL:
            return self.render_batch(())
        params = list(call.args.values())
        answer = answer_introspection(call.method, params, self._catalog, may_call)
        if isinstance(answer, Fault):
            body = encode_fault(answer.code, answer.text)
            return Response(200, body, XML, NO_STORE, outcome="fault")
        return Response(200, encode_response(answer), XML, NO_STORE)

    def render(self, refusal: Refusal) -> Response:
        """Return a refusal in a 200, as `as_value` gives it.

        XML-RPC has no words for a missing credential and for GET: these get HTTP's own.
        """
        if refusal.status == 401:
            return json_refusal(refusal)
        if refusal.status == 405:
            response = json_refusal(refusal)
            # RFC 9110 section 15.5.6
            return replace(response, headers=(*response.headers, (b"allow", b"POST")))
        headers: tuple[tuple[bytes, bytes], ...] = NO_STORE
        if refusal.retry_after is not None:
            headers = (*headers, (b"retry-after", str(refusal.retry_after).encode("ascii")))
        value = self.as_value(refusal)
        if isinstance(value, Fault):
            body = encode_fault(value.code, value.text)
        else:
            body = encode_response(value)
        return Response(200, body, XML, headers)

    def as_value(self, refusal: Refusal) -> Value | Fault:
        """Return a refusal as a fault with the one line.

        Its code is the HTTP status, or JSON-RPC's code where the call itself is at fault.
        """
        return Fault(_FAULT_CODES.get(refusal.reason, refusal.status), refusal.message)

    def render_batch(self, results: Sequence[Result | Refusal]) -> Response:
        """Return the answer array of a ``system.multicall``."""
        array = [self._read(result) for result in results]
        return Response(200, encode_multicall_results(array), XML, NO_STORE)

    def _read(self, result: Result | Refusal) -> Value | Fault:
        if isinstance(result, UnreadResult):
            try:
                return decode_response(result.body)
            except Rejected as error:
                result = Refusal.from_error(error, result.ref)
        return self.as_value(result) if isinstance(result, Refusal) else result

    async def read_result(self, response: Response, budget: ByteBudget, ref: str) -> Result:
        """Return what one inner call came to, from the response that it would get alone.

        Raises `Rejected` when the budget is spent or the response cannot be read as one value. A
        stream is then not read to its end; closing it is the caller's task.
        """
        body = response.body
        if response.stream is None:
            budget.spend(len(body))
        else:
            parts: list[bytes] = []
            async for part in response.stream:
                budget.spend(len(part))
                parts.append(part)
            body = b"".join(parts)
        if budget.spent > LARGE_BYTES:
            return UnreadResult(body, ref)
        return decode_response(body)

    def reads_answer(self, call: Call) -> bool:
        """Return false: a response is passed on."""
        return False

    def question(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Question | None:
        """Return None: nothing has to be asked."""
        return None

    def amend(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Call | UpstreamResponse:
        """Return the call itself."""
        return call

    @abstractmethod
    def _make_call(self, name: str, params: Sequence[Value], principal: Principal) -> Call:
        """Return the call of method `name` with positional `params`. Raises `Rejected`."""

    @abstractmethod
    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """Return the call as the upstream gets it."""

    @abstractmethod
    def answer(self, call: Call, principal: Principal, response: UpstreamResponse) -> Response:
        """Return the upstream's response for the caller. Raises `Unavailable` when it is none."""


def _charset(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the encoding that the Content-Type names, None if it names none.

    Raises `Rejected` for a type that is not XML, and for two encodings.
    """
    content_type = headers.get(b"content-type")
    if content_type is None:
        if any(name in headers for name in _OF_BROWSERS):
            raise _no_xml("is missing")
        return None
    if _XML_IN_UTF8.fullmatch(content_type) is not None:
        return UTF_8
    found = _XML_TYPE.fullmatch(content_type)
    if found is None:
        raise _no_xml("is another type")
    names: set[str] = {
        (token or quoted).decode("ascii", "replace").lower()
        for name, token, quoted in _PARAMETER.findall(found[1])
        if name.lower() == b"charset"
    }
    if len(names) > 1:
        raise Rejected(Reason.AMBIGUOUS_CALL, "the Content-Type names two encodings")
    charset = names.pop() if names else None
    if charset is not None and _CHARSET.fullmatch(charset) is None:
        raise Rejected(Reason.MALFORMED_CALL, "the Content-Type names no encoding as charset")
    return charset


def _no_xml(what: str) -> Rejected:
    return Rejected(Reason.MALFORMED_CALL, f"the Content-Type {what}; send text/xml")
