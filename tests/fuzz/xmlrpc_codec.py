"""XML-RPC documents: other parsers read every accepted one as the same call.

What is encoded reads back. The input is the document.
"""

import xmlrpc.client
from typing import Any
from unittest.mock import patch

from proxy.errors import Rejected, Unavailable
from proxy.model import RejectedEntry
from proxy.protocol.xmlrpc import codec
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.codec import (
    Fault,
    decode_call,
    decode_response,
    encode_call,
    encode_fault,
    encode_response,
)
from proxy.protocol.xmlrpc.multicall import decode_multicall, encode_multicall_results
from tests.fuzz.kit import read, typed
from tests.protocol.xmlrpc.plain_reader import PlainReader
from tests.support.xmlrpc import as_cpython_reads, tree_call

# Of all inputs, so that one may match the template of another.
_TEMPLATES = TemplateCache()


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    call = read(lambda body: decode_call(body, _TEMPLATES), data)
    with patch.object(codec, "Reader", PlainReader):
        assert _compared(read(decode_call, data)) == _compared(call), (
            "a plain reader agrees, in the words of a refusal too"
        )
    if isinstance(call, Rejected):
        assert not isinstance(call, Unavailable), "the caller erred"
    else:
        _call(data, *call)
    answer = read(decode_response, data)
    if isinstance(answer, Rejected):
        assert isinstance(answer, Unavailable), "the upstream erred"
        assert answer.sent, "the upstream may have acted"
    elif isinstance(answer, Fault):
        written = encode_fault(answer.code, answer.text)
        assert decode_response(written) == answer, "a fault reads back"
    else:
        written = encode_response(answer)
        again = decode_response(written)
        assert not isinstance(again, Fault)
        assert typed(again) == typed(answer), "an answer reads back"
        assert encode_response(again) == written, "it has one encoding"
        assert decode_response(encode_multicall_results([answer])) == [[answer]] or typed(
            answer
        ) != typed(answer)


def _compared(found: tuple[str, list[Any]] | Rejected) -> object:
    return (
        (found.reason, found.detail) if isinstance(found, Rejected) else (found[0], typed(found[1]))
    )


def _call(data: bytes, method: str, params: list[Any]) -> None:
    written = encode_call(method, params)
    name, again = decode_call(written)
    assert (name, typed(again)) == (method, typed(params)), "a call reads back"
    assert encode_call(name, again) == written, "it has one encoding"
    for document in (data, written):
        name, values = tree_call(document)
        assert (name, typed(values)) == (method, typed(params)), (
            "a plain walk over the tree finds the same call"
        )
    # CPython reads the encoded call alone: of the input it may know neither the spelling of a date
    # nor a second text next to CDATA.
    loaded, cpython_name = xmlrpc.client.loads(written, use_builtin_types=True)
    assert cpython_name == method, "CPython finds the same method"
    assert [_shown(one) for one in loaded] == [as_cpython_reads(one) for one in params], (
        "CPython finds the same arguments"
    )
    entries = read(decode_multicall, params)
    if not isinstance(entries, Rejected):
        for entry in entries:
            if not isinstance(entry, RejectedEntry):
                encode_call(*entry)


def _shown(value: Any) -> object:
    """Return what CPython read, in the form of `as_cpython_reads`."""
    if isinstance(value, dict):
        return ("dict", [(name, _shown(item)) for name, item in value.items()])
    if isinstance(value, list):
        return ("list", [_shown(item) for item in value])
    return (type(value).__name__, repr(value))
