import orjson
import pytest

from proxy.audit.checking.chain import Chain, Defect, VerificationError
from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.format.record import encode_completed, encode_event, encode_record
from proxy.audit.redaction.redactor import Json

T = b"2026-01-01T00:00:00.000000Z"


def records(*bodies: bytes, times: tuple[bytes, ...] = ()) -> list[bytes]:
    """Make a chain of lines of record bodies, after a segment header."""
    tree, prev, lines = Tree(), b"0" * 16, []
    head = encode_event(
        "segment",
        {
            "log": "c/g",
            "segment": 1,
            "tree": {"size": 0, "root": Tree().root().hex(), "frontier": []},
            "open": [],
        },
    )
    for seq, body in enumerate((head, *bodies)):
        text = encode_record(seq, prev, times[seq - 1] if seq and times else T, body)
        tree.append(leaf_hash(text))
        prev = leaf_hash(text)[:8].hex().encode()
        lines.append(text)
    return lines


def decided(call_id: str) -> bytes:
    """A body that opens a call."""
    return encode_event("decided", {"id": call_id, "decision": "allow"})


def first_wrong(lines: list[bytes]) -> tuple[Defect, int | None] | None:
    """Follow a chain; return what is wrong with it."""
    chain = Chain()
    try:
        for text, following in zip(lines, [*lines[1:], None], strict=True):
            chain.check_next(text, following)
    except VerificationError as broken:
        return broken.defect, broken.seq
    return None


@pytest.mark.parametrize(
    ("bodies", "wrong"),
    [
        (
            (decided("a"), encode_completed("a", 1, "ok", 200, 0, 0), encode_event("closed", {})),
            None,
        ),
        ((decided("a"),), None),
        ((decided("a"), encode_event("closed", {})), (Defect.OPEN, 1)),
        (
            (
                decided("a"),
                decided("b"),
                encode_completed("b", 2, "ok", 200, 0, 0),
                encode_event("closed", {}),
            ),
            (Defect.OPEN, 1),
        ),
        ((encode_completed("a", 1, "ok", 200, 0, 0),), (Defect.ALTERED, 1)),
        ((decided("a"), encode_completed("b", 1, "ok", 200, 0, 0)), (Defect.ALTERED, 2)),
        (
            (
                decided("a"),
                encode_completed("a", 1, "ok", 200, 0, 0),
                encode_completed("a", 1, "ok", 200, 0, 0),
            ),
            (Defect.ALTERED, 3),
        ),
        (
            (
                decided("a"),
                encode_event("opened", {}),
                encode_completed("a", 1, "unknown", 0, 0, 0),
            ),
            None,
        ),
        ((decided("a"), encode_event("opened", {}), encode_event("idle", {})), (Defect.OPEN, 1)),
        (
            (encode_event("decided", {"id": "a", "decision": "deny"}), encode_event("closed", {})),
            None,
        ),
        ((encode_event("decided", {"id": "a"}),), (Defect.ALTERED, 1)),
        ((encode_event("a-stage-to-come", {"x": 1}),), None),
    ],
)
def test_what_records_say_of_each_other_has_to_fit(
    bodies: tuple[bytes, ...], wrong: tuple[Defect, int] | None
) -> None:
    """Calls are completed once, after they were decided, by the time their process has ended;
    stages to come are skipped.
    """
    assert first_wrong(records(*bodies)) == wrong


def test_time_does_not_go_back() -> None:
    """A record earlier than the one before it is not one the journal wrote."""
    later = b"2026-01-01T00:00:01.000000Z"
    assert first_wrong(
        records(encode_event("idle", {}), encode_event("idle", {}), times=(later, T))
    ) == (
        Defect.ALTERED,
        2,
    )


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b"\xff", b'{"v":3,"seq":0,"prev":"0000000000000000","time":"' + T + b'","stage":"x"}',
     b'{"v":1,"seq":00,"prev":"0000000000000000","time":"' + T + b'","stage":"x"}',
     b'{"v":1,"seq":0,"prev":"0000000000000000","time":"yesterday","stage":"x"}'],
)  # fmt: skip
def test_only_the_format_is_a_record(text: bytes) -> None:
    """Other versions, other spellings, and what is no JSON are not taken for records."""
    assert first_wrong([text]) == (Defect.ALTERED, 0)


@pytest.mark.parametrize("body", [decided("a"), encode_event("later", {})])
def test_a_segment_has_one_format_version(body: bytes) -> None:
    """A record of the other version, though it fits in every other way, is not the writer's."""
    first, second = records(body)
    assert first_wrong([first, second.replace(b'{"v":2,', b'{"v":1,')]) == (Defect.ALTERED, 1)


def test_a_chain_can_be_taken_up_at_a_header() -> None:
    """A segment header has all that is needed to check what follows without what came before."""
    lines = records(decided("a"), encode_event("idle", {}))
    tree = Tree()
    for text in lines:
        tree.append(leaf_hash(text))
    said: dict[str, Json] = {
        "size": 3,
        "root": tree.root().hex(),
        "frontier": [part.hex() for part in tree.frontier],
    }
    header = encode_record(
        3,
        leaf_hash(lines[-1])[:8].hex().encode(),
        T,
        encode_event("segment", {"log": "c/g", "segment": 2, "tree": said, "open": [[1, "a"]]}),
    )
    chain = Chain()
    chain.begin_at_header(header)
    chain.check_next(header, None)
    done = encode_record(4, chain.prev, T, encode_completed("a", 1, "ok", 200, 0, 0))
    assert chain.check_next(done, None)["stage"] == "completed" and not chain.open
    for bad in (b"", b"{}", orjson.dumps({"log": "x"})):
        with pytest.raises(VerificationError):
            Chain().begin_at_header(bad)
