import pytest

from proxy.errors import Unavailable
from proxy.gate.audited_stream import AuditedStream
from proxy.model import Reason


class Parts:
    """A stream of given parts and a given end; notes that it was given up."""

    def __init__(self, parts: list[bytes], ending: Exception | None = None) -> None:
        self.parts = parts
        self.ending = ending
        self.closed = 0

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if self.parts:
            return self.parts.pop(0)
        raise self.ending or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_stream_that_ends_is_recorded_once() -> None:
    """The end has its outcome and its bytes; closing the stream afterwards, as everyone does, adds
    nothing.
    """
    ends: list[tuple[str, int]] = []
    stream = AuditedStream(Parts([b"ab", b"c"]), lambda outcome, sent: ends.append((outcome, sent)))
    assert [part async for part in stream] == [b"ab", b"c"]
    await stream.aclose()
    assert ends == [("ok", 3)]


async def test_a_stream_that_the_upstream_cuts_short_has_its_reason() -> None:
    """The caller sees that it is cut, the record says why."""
    ends: list[tuple[str, int]] = []
    stream = AuditedStream(
        Parts([b"ab"], Unavailable(Reason.UPSTREAM_CLOSED)),
        lambda outcome, sent: ends.append((outcome, sent)),
    )
    with pytest.raises(Unavailable):
        [part async for part in stream]
    assert ends == [("upstream-closed", 2)]


@pytest.mark.parametrize("end", ["read", "cut", "left", "record fails"])
async def test_what_is_held_for_a_stream_is_let_go_once_at_its_end(end: str) -> None:
    """Not before its last part has been taken, and then after the record, however it ends."""
    ends: list[str] = []

    def close(outcome: str, sent: int) -> None:
        ends.append(outcome)
        if end == "record fails":
            raise RuntimeError

    stream = AuditedStream(
        Parts([b"ab"], Unavailable(Reason.UPSTREAM_CLOSED) if end == "cut" else None), close
    )
    stream.on_end = lambda: ends.append("last")
    assert await stream.__anext__() == b"ab"
    assert ends == []
    if end != "left":
        with pytest.raises({"read": StopAsyncIteration, "cut": Unavailable}.get(end, RuntimeError)):
            await stream.__anext__()
    for _ in range(2):
        await stream.aclose()
    assert ends == [{"cut": "upstream-closed", "left": "client-gone"}.get(end, "ok"), "last"]


@pytest.mark.parametrize("reason", [None, Reason.CALL_TOO_COMPLEX])
async def test_a_stream_that_is_given_up_has_the_reason_of_that(reason: Reason | None) -> None:
    """The caller left, or the gate reads no further; either way the upstream's stream is closed."""
    ends: list[tuple[str, int]] = []
    parts = Parts([b"ab", b"cd"])
    stream = AuditedStream(parts, lambda outcome, sent: ends.append((outcome, sent)))
    assert await stream.__anext__() == b"ab"
    await (stream.aclose() if reason is None else stream.abort(reason))
    assert ends == [(reason or "client-gone", 2)]
    assert parts.closed == 1
