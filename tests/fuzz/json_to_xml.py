"""luigid's answers as XML-RPC while they arrive: encoded as the codec would, in any pieces.

The first byte gives the size of the pieces in which the rest arrives.
"""

import json

from proxy.errors import Rejected, Unavailable
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import decode_response, encode_response
from proxy.protocol.xmlrpc.json_to_xml import json_to_xml
from proxy.protocol.xmlrpc.json_to_xml_stream import TOKEN_LIMIT, JsonToXml
from tests.fuzz.kit import read


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    if not data:
        return
    size, body = data[0] or 256, data[1:]
    whole, pieces = read(_through, body, len(body) + 1), read(_through, body, size)
    meant, at_once = _meant(body), read(json_to_xml, body)
    assert isinstance(whole, Rejected) == isinstance(pieces, Rejected), (
        "the cuts do not decide whether it is read"
    )
    if isinstance(whole, Rejected):
        assert isinstance(at_once, Rejected), "in one piece it is refused too"
        assert isinstance(whole, Unavailable), "the upstream erred"
        assert whole.sent, "the upstream may have acted"
        assert meant is None, "an answer that the codec encodes is encoded"
        return
    assert whole == pieces == at_once, "the cuts change nothing"
    if meant is not None:
        assert whole == meant, "the codec encodes it alike"
        decode_response(meant)


def _through(body: bytes, size: int) -> bytes:
    transcoder = JsonToXml()
    parts = [transcoder.feed(body[at : at + size]) for at in range(0, len(body), size)]
    return b"".join([*parts, transcoder.close()])


def _meant(body: bytes) -> bytes | None:
    """Return what `encode_response` writes of the answer.

    Return None for an invalid answer, and for one with a duplicate key.
    """

    def once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    def short(digits: str) -> float:
        # Integers of so many digits are beyond XML-RPC's 64 bits.
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
