"""XML-RPC in front of luigid, which never spoke it.

``/RPC2`` answers with what ``/api/<method>`` answers. Arguments are positional, or one struct of
named ones; an argument left out takes luigid's default. Pages are no methods here.
"""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace

from proxy.catalog.checking import name_arguments
from proxy.catalog.model import Catalog, Method
from proxy.errors import Rejected
from proxy.model import (
    Call,
    DateTime,
    Principal,
    Question,
    Reason,
    Request,
    Response,
    Stream,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.luigi import calls
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.task_reports import TaskReports
from proxy.protocol.luigi.worker_identity import REWRITTEN_METHODS, rewrite_worker_answer
from proxy.protocol.refusal import Refusal
from proxy.protocol.strict_json import MAX_ELEMENTS, RoundTripped
from proxy.protocol.xmlrpc.codec import Fault
from proxy.protocol.xmlrpc.http_binding import NO_STORE, XML, XmlRpcCodec
from proxy.protocol.xmlrpc.json_to_xml import json_to_xml
from proxy.protocol.xmlrpc.json_to_xml_stream import JsonToXml

_NOT_IN_JSON = frozenset((bytes, DateTime))
# Bytes of JSON that are transcoded in one go, in 1 ms, and in 10 ms if it is brackets alone.
_SLICE_BYTES = 8_192


class LuigiBridge(XmlRpcCodec):
    """The codec of XML-RPC clients in front of luigid."""

    def __init__(
        self,
        upstream: str,
        catalog: Catalog,
        path: str,
        *,
        max_batch_calls: int,
        body_bytes: int,
        max_elements: int = MAX_ELEMENTS,
        batch_ids: BatchIdSigner | None = None,
        reports: TaskReports | None = None,
        public_origin: bytes = b"",
    ) -> None:
        """`path` is where luigid itself is served; the last three as in `LuigiApi`."""
        self._reports = reports or TaskReports(path)
        self._batch_ids = batch_ids or BatchIdSigner(secrets.token_bytes(32), upstream)
        methods = {
            name: method for name, method in catalog.methods.items() if not name.startswith("page.")
        }
        super().__init__(
            upstream,
            replace(catalog, methods=methods),
            path,
            max_batch_calls=max_batch_calls,
            body_bytes=body_bytes,
            max_elements=max_elements,
            public_origin=public_origin,
        )

    def _make_call(self, name: str, params: Sequence[Value], principal: Principal) -> Call:
        method = self._catalog.methods.get(name)
        if method is None:
            unnamed: dict[str, Value] = {str(number): value for number, value in enumerate(params)}
            return Call(self._upstream, "luigi", name, "admin", unnamed, in_catalog=False)
        named = params[0] if len(params) == 1 else None
        args = RoundTripped(named if type(named) is dict else name_arguments(method, params))
        _require_json_types(method, args.values())
        return calls.make_call(
            self._upstream, self._catalog, name, args, principal, self._batch_ids
        )

    def question(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Question | None:
        """Return what luigid is asked before a report on a running task, None for nothing."""
        return self._reports.question(call, principal, answers)

    def amend(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Call | UpstreamResponse:
        """Return what the caller may say of the task, or the null that it gets at once."""
        return self._reports.amend(call, principal, answers)

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """Return the call as the JSON API does: luigid gets one encoding from both codecs."""
        return calls.encode(call, self._catalog, principal, self._path)

    def reads_answer(self, call: Call) -> bool:
        """Return true: JSON becomes XML."""
        return True

    def answer(self, call: Call, principal: Principal, response: UpstreamResponse) -> Response:
        """Return luigid's JSON as a ``methodResponse``, in constant memory however long it is."""
        calls.check_answer(call, response)
        if response.stream is not None:
            stream = _XmlStream(response.stream, JsonToXml())
            return Response(200, b"", XML, NO_STORE, stream=stream)
        body = response.body
        if call.method in REWRITTEN_METHODS:
            body = rewrite_worker_answer(
                call, principal, body, self._batch_ids, self._reports.remember
            )
        return Response(200, json_to_xml(body), XML, NO_STORE)

    def as_value(self, refusal: Refusal) -> Value | Fault:
        """Return a fault; for a denied ``get_work``, luigid's own answer to a disabled worker."""
        if calls.is_worker_shutdown(refusal):
            return calls.WORKER_SHUTDOWN
        return super().as_value(refusal)


class _XmlStream:
    """A stream of luigid's JSON, transcoded to XML-RPC in slices.

    A slice becomes three times as long, in some milliseconds. The event loop runs between slices.
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
                    await asyncio.sleep(0)
                else:
                    self._rest = memoryview(await self._stream.__anext__())
                part = self._transcoder.feed(bytes(self._rest[:_SLICE_BYTES]))
                self._rest = self._rest[_SLICE_BYTES:]
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


def _require_json_types(method: Method, values: Collection[Value]) -> None:
    """Reject values that JSON has no type for, at any depth."""
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
