"""Fast paths of a call switched off by name, so that the share of each can be measured again.

``CALLGATE_BENCH_WITHOUT=request-heads,templates python -m tests.bench profile`` measures a gate
without the two. Each name stands for the ``PERF:`` comments of one slower path that the code also
has, "caches" for those of every `BoundedCache`. A comment on a form of words (a split, a search)
has no second path to switch to. A compiled module binds its functions early, so a switch has no
effect there: the profile measures the interpreted package.
"""

from collections.abc import Callable
from typing import Any

from proxy.audit.redaction.fast_path import FastPath
from proxy.common.bounded_cache import BoundedCache
from proxy.edge.server.request_head_cache import RequestHeadCache
from proxy.edge.upstream.response_head_cache import ResponseHeadCache
from proxy.identity.verifier import Verifier
from proxy.protocol import strict_json
from proxy.protocol.xmlrpc import luigi_bridge
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.grammar import Reader
from proxy.protocol.xmlrpc.json_to_xml_stream import JsonToXml

ENVIRONMENT = "CALLGATE_BENCH_WITHOUT"


def _misses(*_given: object) -> Any:
    """Miss: the slow path decides."""
    return None


def _streamed(body: bytes) -> bytes:
    """Encode an answer as one that is still arriving."""
    transcoder = JsonToXml()
    return transcoder.feed(body) + transcoder.close()


SWITCHES: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "answers": (luigi_bridge, "json_to_xml", _streamed),
    "caches": (BoundedCache, "put", _misses),
    "json": (strict_json, "parse_fast", _misses),
    "redaction": (FastPath, "encode", _misses),
    "request-heads": (RequestHeadCache, "find", _misses),
    "response-heads": (ResponseHeadCache, "add", _misses),
    "templates": (TemplateCache, "match", _misses),
    "text-arrays": (Reader, "_texts", _misses),
    "tokens": (Verifier, "_store", _misses),
}
"""The owner, the name of its function, and what replaces that, by the name of the switch."""


def switch_off(names: str) -> None:
    """Switch off the fast paths that `names` lists, separated by commas.

    Raises:
        ValueError: A name is not in `SWITCHES`.

    """
    for name in filter(None, names.split(",")):
        if name not in SWITCHES:
            raise ValueError(f"{ENVIRONMENT} names {name!r}: use {', '.join(SWITCHES)}")
        owner, attribute, replacement = SWITCHES[name]
        setattr(owner, attribute, replacement)
