"""Encodes luigid's complete JSON answer as an XML-RPC ``methodResponse``.

`json` parses the answer and the codec encodes it, to the same bytes as `json_to_xml_stream`. An
answer that these refuse or would parse in another way (a duplicate key, a number of thousands of
digits) is left to `json_to_xml_stream`, which also has the error text.

PERF: this instead of `json_to_xml_stream` saves 0.7 ms of 1 (16 dashboards, page data of 9 kB).
"""

import json
import re

from proxy.errors import Unavailable
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import encode_response
from proxy.protocol.xmlrpc.json_to_xml_stream import TOKEN_LIMIT, JsonToXml

# the key as luigid writes it, without escapes
_RESPONSE = re.compile(r'[ \t\n\r]*+\{[ \t\n\r]*+"response"')
# PERF: luigid's answer to most calls of a worker, encoded once, saves 4 us (add_task, 900 B).
_NULL = b'{"response": null}'
_ENCODED_NULL = encode_response(None)


def json_to_xml(body: bytes) -> bytes:
    """Return the document of an answer. Raises `Unavailable` with UPSTREAM_INVALID."""
    if body == _NULL:
        return _ENCODED_NULL
    try:
        text = body.decode("utf-8")
        if _RESPONSE.match(text) is not None:
            document: dict[str, Value] = _decode(text)
            if len(document) == 1:
                return encode_response(document["response"], lossy=True)
    except (ValueError, RecursionError, Unavailable):
        pass  # the stream decides
    transcoder = JsonToXml()
    return transcoder.feed(body) + transcoder.close()


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _real(digits: str) -> float:
    if len(digits) > TOKEN_LIMIT:
        raise ValueError("a number has too many digits")
    return float(digits)


# The codec refuses NaN and Infinity.
_decode = json.JSONDecoder(object_pairs_hook=_object, parse_float=_real).decode
