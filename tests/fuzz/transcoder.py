"""luigid's answers read as XML-RPC while they arrive: wherever they are cut, and as the codec would
write the whole.

The first byte says in pieces of how many bytes the rest arrives.
"""

import json

from proxy.errors import Rejected, Unavailable
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import decode_response, encode_response
from proxy.protocol.xmlrpc.json_to_xml import json_to_xml
from proxy.protocol.xmlrpc.json_to_xml_stream import TOKEN_LIMIT, JsonToXml
from tests.fuzz.kit import read


def one(data: bytes) -> None:
    """Hold the promises for one input."""
    if not data:
        return
    size, body = data[0] or 256, data[1:]
    whole, pieces = read(_through, body, len(body) + 1), read(_through, body, size)
    meant, at_once = _meant(body), read(json_to_xml, body)
    assert isinstance(whole, Rejected) == isinstance(pieces, Rejected), (
        "where it is cut does not decide whether it is read"
    )
    if isinstance(whole, Rejected):
        assert isinstance(at_once, Rejected), "nor is more taken in one piece"
        assert isinstance(whole, Unavailable), "it is the upstream that erred"
        assert whole.sent, "and it may have acted"
        assert meant is None, "what the codec can write is written"
        return
    assert whole == pieces == at_once, "where it is cut, if it is, changes nothing"
    if meant is not None:
        assert whole == meant, "it is what the codec writes"
        decode_response(meant)


def _through(body: bytes, size: int) -> bytes:
    transcoder = JsonToXml()
    parts = [transcoder.feed(body[at : at + size]) for at in range(0, len(body), size)]
    return b"".join([*parts, transcoder.close()])


def _meant(body: bytes) -> bytes | None:
    """What `encode_response` writes of the answer; None for what is no answer, and for one with a
    key that stands twice.
    """

    def once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    def short(digits: str) -> float:
        # integers of so many digits are beyond XML-RPC's 64 bits anyway
        if len(digits) > TOKEN_LIMIT:
            raise ValueError
        return float(digits)

    try:
        document = json.loads(body.decode(), object_pairs_hook=once, parse_float=short)
        if (
            not isinstance(document, dict)
            or document.keys() != {"response"}
            or b'"response"' not in body
        ):
            # the transcoder wants the wrapper's key as luigid writes it, without escapes
            return None
        return encode_response(document["response"], lossy=True)
    except (ValueError, RecursionError, Unavailable):
        return None
