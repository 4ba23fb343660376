"""Fast paths of a call switched off by name, so that the share of each can be measured again.

``CALLGATE_BENCH_WITHOUT=request-heads,templates python -m tests.bench profile`` measures a gate
without the two. Each name stands for one ``PERF:`` comment of the interpreted package; a compiled
module binds its functions early, so a switch has no effect there.
"""

from collections.abc import Callable
from typing import Any

from proxy.audit.redaction.fast_path import FastPath
from proxy.edge.server.request_head_cache import RequestHeadCache
from proxy.edge.upstream.response_head_cache import ResponseHeadCache
from proxy.protocol import strict_json
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.grammar import Reader

ENVIRONMENT = "CALLGATE_BENCH_WITHOUT"


def _misses(*_given: object) -> Any:
    """Miss: the slow path decides."""
    return None


SWITCHES: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "json": (strict_json, "parse_fast", _misses),
    "redaction": (FastPath, "encode", _misses),
    "request-heads": (RequestHeadCache, "find", _misses),
    "response-heads": (ResponseHeadCache, "add", _misses),
    "templates": (TemplateCache, "match", _misses),
    "text-arrays": (Reader, "_texts", _misses),
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
