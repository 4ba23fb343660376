from typing import Any

import orjson
import pytest

from proxy.audit.reading.records import (
    CompletedRecord,
    DecidedRecord,
    FloodSummary,
    OpenedRecord,
    OtherRecord,
    PolicyInForce,
    RecordedPeer,
    RejectedRecord,
    SegmentRecord,
    WindowCounts,
    members_of,
    parse_record,
)
from tests.support.audit_records import line_of, record_of

PEER = {"address": "10.0.0.7", "port": 7, "tls": None, "user_agent": "ua"}


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (1, {"peer": "origin", "permission": "class", "in_catalog": "known"}),
        (2, {"peer": "peer", "permission": "permission", "in_catalog": "in_catalog"}),
    ],
)
def test_a_decided_record_has_the_same_members_in_both_formats(
    version: int, names: dict[str, str]
) -> None:
    """The members that format 1 names otherwise are read under the names of format 2."""
    members = {
        names["peer"]: PEER,
        names["permission"]: "admin",
        names["in_catalog"]: False,
        "args": {"a": [1, None]},
        "method": "pause",
    }
    found = record_of("decided", version=version, **members)
    assert isinstance(found, DecidedRecord)
    assert found.peer == RecordedPeer("10.0.0.7", 7, None, "ua")
    assert (found.permission, found.in_catalog, found.method) == ("admin", False, "pause")
    assert found.arguments() == {"a": [1, None]}


@pytest.mark.parametrize(("version", "name"), [(1, "decided"), (2, "decided_seq")])
def test_a_completed_record_names_its_call_in_both_formats(version: int, name: str) -> None:
    """The sequence number of the decided record is read under either name, windows too."""
    window = {"calls": 2, "first": "a", "last": "b", "outcomes": {"ok": 2}}
    found = record_of("completed", version=version, **{name: 7, "outcome": "ok", "window": window})
    assert isinstance(found, CompletedRecord)
    assert (found.decided_seq, found.window) == (7, WindowCounts(2, "a", "b", {"ok": 2}))


@pytest.mark.parametrize(("version", "name"), [(1, "origin"), (2, "peer")])
def test_a_rejected_record_has_its_peer_in_both_formats(version: int, name: str) -> None:
    """Where a rejected request came from is read under either name, floods too."""
    found = record_of("rejected", version=version, **{name: PEER, "reason": "no-credential"})
    assert isinstance(found, RejectedRecord) and found.peer.address == "10.0.0.7"
    flood = record_of("rejected", version=version, summary={"address": None, "count": 9})
    assert isinstance(flood, RejectedRecord) and flood.summary == FloodSummary(None, 9)


@pytest.mark.parametrize(("version", "name"), [(1, "cut"), (2, "torn_bytes")])
def test_an_opened_record_has_what_was_recovered_in_both_formats(version: int, name: str) -> None:
    """What a starting process found is read under either name."""
    found = record_of("opened", version=version, recovered={name: 5, "unknown": 1})
    assert isinstance(found, OpenedRecord) and found.recovered is not None
    assert (found.recovered.torn_bytes, found.recovered.unknown) == (5, 1)


def test_a_segment_header_has_the_policy_set_in_force() -> None:
    """A log can be read from any segment: its header names the policy set."""
    policy = {"hash": "h", "files": ["a.cedar"], "texts_sha256": "t"}
    found = record_of("segment", log="c/g", segment=2, tree={"size": 0}, open=[], policy=policy)
    assert isinstance(found, SegmentRecord) and found.policy == PolicyInForce("h", "t")


def test_unknown_members_are_ignored() -> None:
    """Members may be added to a format; they stay in the line."""
    line = line_of("closed", later={"x": 1})
    assert parse_record(line).stage == "closed" and members_of(line)["later"] == {"x": 1}


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        (b"", "unreadable"),
        (b"[]", "unreadable"),
        (b"\xff", "unreadable"),
        (line_of("decided", principal=5), "unreadable"),
        (line_of("decided", version=1, origin=[]), "unreadable"),
        (line_of("later", x=1), "later"),
        (line_of("decided", version=3), "decided"),
        (b'{"v":2,"seq":0,"stage":"decided","args":' + b"[" * 5000 + b"}", "unreadable"),
    ],
)
def test_what_is_no_record_of_these_formats_is_an_other_record(line: bytes, stage: str) -> None:
    """A stage or a format to come keeps its stage; a record with wrong types, and what is no
    record, is unreadable. Nothing raises.
    """
    found = parse_record(line)
    assert isinstance(found, OtherRecord) and found.stage == stage


@pytest.mark.parametrize("line", [b"", b"5", b"[]", b"\xff", b'{"a":'])
def test_members_of_what_is_no_object_are_none(line: bytes) -> None:
    """Any line has members, if only none."""
    assert members_of(line) == {}


def test_numbers_and_texts_are_read_as_written() -> None:
    """Arguments are decoded only when they are asked for, and are the JSON that was recorded."""
    args: dict[str, Any] = {"big": 2**53, "text": "\u2028", "float": 1.5}
    found = parse_record(orjson.dumps({"v": 2, "seq": 1, "stage": "decided", "args": args}))
    assert isinstance(found, DecidedRecord) and found.arguments() == args
    bare = record_of("decided")
    assert isinstance(bare, DecidedRecord) and bare.arguments() == {}
