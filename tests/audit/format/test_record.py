import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit.format.record import (
    RecordEncoder,
    TimestampEncoder,
    encode_completed,
    encode_event,
    encode_json,
    encode_principal,
    encode_record,
)
from proxy.audit.redaction.redactor import Redactor
from proxy.model import Call, Peer, Principal, Reason
from tests.support.audit import ALICE, ALLOW, DENY, HASH, HERE, call

BODIES = RecordEncoder(Redactor(b"k" * 32))
LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def read(body: bytes) -> dict[str, object]:
    """Make a record of a body and parse it."""
    found: dict[str, object] = orjson.loads(
        encode_record(7, b"0" * 16, b"2026-01-01T00:00:00.000000Z", body)
    )
    return found


def test_decided_names_everything() -> None:
    """A decided record has principal, peer, call and decision, complete."""
    record = read(
        BODIES.decided("R1", ALICE, HERE, call("add_task", task="etl.A_1", priority=3), ALLOW)
    )
    assert record == {
        "v": 2,
        "seq": 7,
        "prev": "0" * 16,
        "time": "2026-01-01T00:00:00.000000Z",
        "stage": "decided",
        "id": "R1",
        "principal": {
            "issuer": "https://idp.example/",
            "issuer_name": "okta",
            "subject": "alice",
            "roles": ["viewer"],
            "agent": False,
        },
        "peer": {
            "address": "10.0.0.7",
            "port": 51234,
            "tls": "TLSv1.3",
            "user_agent": "python-requests/2.31",
        },
        "upstream": "luigi",
        "protocol": "luigi",
        "method": "add_task",
        "permission": "work",
        "task": "etl.A_1",
        "args": {"priority": 3},
        "decision": "allow",
        "reason": "allowed",
        "policies": ["etl-workers-work"],
        "policy_hash": HASH,
    }


def test_members_have_the_order_of_the_specification() -> None:
    """A record begins with v, seq, prev, time, stage, so a reader may parse its start alone."""
    assert list(read(encode_event("closed", {})))[:5] == ["v", "seq", "prev", "time", "stage"]


def test_denied_and_unknown_method() -> None:
    """A denied call of a method outside the catalog has both facts in its record."""
    record = read(
        BODIES.decided(
            "R1",
            ALICE,
            HERE,
            Call("luigi", "luigi", "drop_all", "admin", {"0": "hunter2"}, in_catalog=False),
            DENY,
        )
    )
    assert "hunter2" not in str(record) and set(record["args"]["0"]) == {"hmac-sha256"}  # type: ignore[index]  # read as objects
    assert (record["decision"], record["reason"], record["in_catalog"]) == (
        "deny",
        "no-policy-allows",
        False,
    )


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ("ok", ("ok", None)),
        ("fault", ("fault", None)),
        (Reason.CLIENT_GONE, ("failed", "client-gone")),
    ],
)
def test_completed_outcomes(outcome: str, shown: tuple[str, str | None]) -> None:
    """An outcome is ok, fault or unknown; a reason code means failed, and is recorded too."""
    record = read(encode_completed("R1", 3, outcome, 502, 9, 12))
    assert (record["outcome"], record.get("reason")) == shown
    assert (record["decided_seq"], record["status"], record["bytes"], record["duration_us"]) == (
        3,
        502,
        9,
        12,
    )


@pytest.mark.parametrize("call_id", ["7Q2MABCD", "7Q2MABCD.3", "", 'a"b', "\u2028", "é"])
def test_completed_records_any_id(call_id: str) -> None:
    """An id that recovery read from a log may be any text."""
    assert read(encode_completed(call_id, 3, "unknown", 0, 0, 0))["id"] == call_id


def test_rejected_without_and_with_principal() -> None:
    """A rejection names the principal and the upstream where they were known."""
    plain = read(BODIES.rejected("R1", Reason.NO_CREDENTIAL, "", HERE, None, None))
    assert "principal" not in plain and "upstream" not in plain
    full = read(BODIES.rejected("R1", Reason.MALFORMED_CALL, "at byte 3", HERE, ALICE, "luigi"))
    assert (full["detail"], full["upstream"], full["principal"]) == (
        "at byte 3",
        "luigi",
        orjson.loads(encode_principal(ALICE)),
    )


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()), st.text())
def test_no_text_can_make_one_record_two(
    agent: str, subject: str, args: dict[str, str], method: str
) -> None:
    """For any texts, a line has no line end of any kind and no raw control, and is JSON."""
    principal = Principal("https://i/", "i", subject, ("r",))
    bodies = RecordEncoder(Redactor(b"k" * 32))
    target = Call("luigi", "luigi", method, "work", args, in_catalog=False, task=subject)
    text = encode_record(
        1,
        b"0" * 16,
        b"t",
        bodies.decided("R1", principal, Peer("::1", 1, None, agent), target, ALLOW),
    )
    assert len(text.decode().splitlines()) == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text.decode())
    assert orjson.loads(text)["peer"]["user_agent"] == agent[:256]


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfffb", "\x00", LINE_ENDS, "\x7f\x9b31m", "\u202eevil\u2066"]
)
def test_hostile_texts_stay_one_safe_line(text: str) -> None:
    """Lone surrogates, every line end of Unicode, terminal controls and bidirectional overrides are
    escaped.
    """
    shown = encode_json({"x": text, "list": [text], text: 1}).decode()
    assert len(shown.splitlines()) == 1 and not set(shown) & set(LINE_ENDS + "\x7f\x9b\u202e\u2066")
    assert set(orjson.loads(shown)) >= {"x", "list"}


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, b"1970-01-01T00:00:00.000000Z"),
        (1, b"1970-01-01T00:00:00.000001Z"),
        (1_767_225_599_999_999, b"2025-12-31T23:59:59.999999Z"),
    ],
)
def test_timestamps(micros: int, text: bytes) -> None:
    """Times are RFC 3339, UTC, with all six decimals."""
    assert TimestampEncoder()(micros) == text


def test_fragments_are_bounded_and_the_same_after_eviction() -> None:
    """The cache of encoded fragments is bounded, and a fragment made again is the same."""
    bodies = RecordEncoder(Redactor(b"k" * 32))
    first = bodies.decided("R", ALICE, HERE, call(), ALLOW)
    for port in range(9000):
        bodies.decided("R", ALICE, Peer("10.0.0.1", port, None, "x"), call(), ALLOW)
    assert len(bodies._fragments) <= 4096
    assert bodies.decided("R", ALICE, HERE, call(), ALLOW) == first


def test_a_cached_fragment_takes_no_more_than_its_length() -> None:
    """A thousand cached peers take their bytes, not the 4 kB in which orjson wrote each."""
    bodies = RecordEncoder(Redactor(b"k" * 32))
    origins = [Peer("10.0.0.7", port, None, "") for port in range(1000)]
    tracemalloc.start()
    try:
        for origin in origins:
            bodies.decided("R1", ALICE, origin, call(), ALLOW)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_method_outside_the_catalog_is_never_mistaken() -> None:
    """Calls that differ only in whether the catalog has the method differ in the record too."""
    bodies = RecordEncoder(Redactor(b"k" * 32))
    known, unknown = (
        Call("luigi", "luigi", "page.metrics", "admin", {}, in_catalog=known)
        for known in (True, False)
    )
    assert [
        "in_catalog" in read(bodies.decided("R1", ALICE, HERE, call, DENY))
        for call in (known, unknown, known)
    ] == [False, True, False]
