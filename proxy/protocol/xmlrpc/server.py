"""XML-RPC in front of an XML-RPC server (supervisord, Cobbler, …).

A call is encoded afresh. The catalog's keys mean what they mean for luigid
(`proxy.protocol.catalog_call`); arguments that it does not list, where it allows them, are named by
their position. The answer is the upstream's own document: its content is trusted, and
only that it is XML is checked.
"""

import re
from collections.abc import Collection, Sequence

from proxy.catalog.checking import name_arguments
from proxy.errors import Unavailable
from proxy.model import (
    Call,
    Principal,
    Reason,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.catalog_call import bind_worker, check_call, related_tasks, task_of
from proxy.protocol.xmlrpc.codec import encode_call
from proxy.protocol.xmlrpc.control_characters import ReplacedStream, readable
from proxy.protocol.xmlrpc.http_binding import NO_STORE, XML, XmlRpcCodec

_XML_IN_ANY_CHARSET = re.compile(
    rb'(?:text|application)/xml(?:[ \t]*;[ \t]*charset=("?)([A-Za-z0-9._:-]{1,40})\1)?'
    rb"[ \t]*(?:;.*)?",
    re.IGNORECASE,
)


class XmlRpcServer(XmlRpcCodec):
    """The codec of an upstream that speaks XML-RPC."""

    replace_control_characters = False
    """Whether control characters in an answer are replaced, so that clients can read it."""

    def _make_call(self, name: str, params: Sequence[Value], principal: Principal) -> Call:
        method = self._catalog.methods.get(name)
        if method is None:
            args: dict[str, Value] = {str(number): value for number, value in enumerate(params)}
            return Call(self._upstream, "xmlrpc", name, "admin", args, in_catalog=False)
        listed = len(method.names)
        more = params[listed:] if method.allow_extra or method.extra_type is not None else ()
        args = name_arguments(method, params[:listed] if more else params)
        for number, value in enumerate(more, listed):
            args[str(number)] = value
        heartbeat = check_call(method, args)
        task = task_of(method, args)
        return Call(
            self._upstream,
            "xmlrpc",
            name,
            method.permission,
            args,
            task=task,
            related_tasks=related_tasks(method, args, task) if method.related_task_args else (),
            secret_paths=method.secret_args,
            heartbeat=heartbeat,
        )

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """Return the call as a fresh document, the worker id suffixed.

        Arguments are in wire order, since they were named in that order.
        """
        method = self._catalog.methods[call.method]
        values: Collection[Value] = call.args.values()
        if method.worker_arg is not None:
            suffixed = bind_worker(call.args[method.worker_arg], principal)
            values = {**call.args, method.worker_arg: suffixed}.values()
        body = encode_call(call.method, values)
        if call.heartbeat is not None:
            return UpstreamRequest("POST", self._target, XML, body, kind="heartbeat")
        if call.permission != "view":
            return UpstreamRequest("POST", self._target, XML, body)
        return UpstreamRequest(
            "POST",
            self._target,
            XML,
            body,
            kind="read",
            cacheable=method.shared,
            shared=method.shared,
            fairness_key=principal.name,
        )

    def answer(self, call: Call, principal: Principal, response: UpstreamResponse) -> Response:
        """Return the upstream's own document, relayed. Raises `Unavailable` when it is no XML."""
        if response.status != 200:
            raise Unavailable(
                Reason.UPSTREAM_ERROR if response.status >= 500 else Reason.UPSTREAM_INVALID,
                f"the upstream answered {response.status}",
                sent=True,
            )
        content_type = response.headers.get(b"content-type", b"")
        if content_type != XML:
            content_type = _xml_type(content_type)
        if response.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Unavailable(
                Reason.UPSTREAM_INVALID,
                "the upstream sent a compressed response that was not requested",
                sent=True,
            )
        utf8 = content_type == XML or content_type.lower().endswith(b"utf-8")
        body = readable(response.body, replace=self.replace_control_characters, utf8=utf8)
        stream, length = response.stream, response.length
        if stream is not None and self.replace_control_characters:
            stream, length = ReplacedStream(stream, utf8=utf8), None
        return Response(
            200,
            body,
            content_type,
            NO_STORE,
            stream=stream,
            length=length,
            outcome="ok" if response.body.find(b"<fault>", 0, 512) < 0 else "fault",
        )


def _xml_type(given: bytes) -> bytes:
    """Return the Content-Type for relaying a response of type `given`: XML in its charset.

    Raises `Unavailable` for a type that is not XML.
    """
    kind = _XML_IN_ANY_CHARSET.fullmatch(given)
    if kind is None:
        name = "HTML" if given[:9].lower() == b"text/html" else "something other than XML"
        raise Unavailable(Reason.UPSTREAM_INVALID, f"the upstream answered {name}", sent=True)
    return XML if kind[2] is None else b"text/xml; charset=" + kind[2]
