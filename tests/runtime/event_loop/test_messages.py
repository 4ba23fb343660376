"""Messages between a serving process and the processes of its large calls."""

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.gate.ports import Prepared
from proxy.model import Batch, Call, DateTime, Decision, Principal, Reason
from proxy.protocol.codec import UnreadResult
from proxy.protocol.refusal import Refusal
from proxy.protocol.xmlrpc.codec import Fault
from proxy.runtime.event_loop import messages

LONG = st.integers(16_000, 17_000).map(lambda size: b"x" * size)
PART = st.one_of(st.text(), st.binary(), LONG, st.integers(), st.none())


def sent(message: object) -> list[bytes]:
    """Return the parts of a message as its reader finds them in the stream of bytes."""
    stream = b"".join(messages.encode(message))
    count, stream = stream[: messages.COUNT_BYTES], stream[messages.COUNT_BYTES :]
    size = messages.lengths_size(count)
    lengths, stream = messages.read_lengths(stream[:size]), stream[size:]
    assert sum(lengths) == len(stream)
    parts = []
    for length in lengths:
        parts.append(stream[:length])
        stream = stream[length:]
    return parts


@given(st.recursive(PART, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8))
def test_a_message_is_read_as_it_was_written(message: object) -> None:
    """Whatever its parts are, and wherever long bytes stand in it."""
    assert messages.decode(sent(message)) == message


def test_long_bytes_are_not_copied_into_the_pickle() -> None:
    """They are sent as they are."""
    body = b"x" * 1_000_000
    head, pickled, part = messages.encode(("job", body))
    assert part is body
    assert len(head) + len(pickled) < 200


def test_every_noun_passes_whole() -> None:
    """Those of compiled modules, too, whose attributes pickle does not find by itself."""
    principal = Principal("https://idp", "idp", "ann", ("viewer",))
    call = Call("u", "xmlrpc", "m", "view", {"x": [DateTime("20261201T00:00:00"), b"b", 1.5]})
    decision = Decision("allow", Reason.ALLOWED, ("p",), "sha256:0")
    prepared = Prepared(Batch((call,), True, True), (decision,))
    refusal = Refusal.from_error(Rejected(Reason.BAD_ARGUMENTS, "odd"), "R1")
    for noun in (principal, prepared, refusal, UnreadResult(b"x" * 20_000, "R"), Fault(1, "no")):
        found = messages.decode(sent(noun))
        assert type(found) is type(noun)
        names = [part.name for part in fields(noun)]
        assert [getattr(found, name) for name in names] == [getattr(noun, name) for name in names]
