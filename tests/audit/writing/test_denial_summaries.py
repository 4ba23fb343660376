from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.audit.format.record import TimestampEncoder
from proxy.audit.writing.denial_summaries import (
    MAX_PARTS,
    MAX_PARTS_IN_ALL,
    MAX_PRINCIPALS,
    WINDOW_SECONDS,
    DenialSummaries,
    Summary,
)
from proxy.model import Peer, Principal, Reason
from tests.support.audit import ALICE, DENY, HASH, HERE, WORKER, call

START = 1_767_225_600_000_000
FORBIDDEN = replace(DENY, reason=Reason.POLICY_FORBIDS)
UNKNOWN = replace(DENY, reason=Reason.UNKNOWN_METHOD)


def deny(
    denials: DenialSummaries,
    principal: Principal = ALICE,
    method: str = "pause",
    *,
    peer: Peer = HERE,
    seconds: float = 0.0,
    **more: Any,
) -> bool:
    """Deny one call; return whether it gets a record."""
    micros = START + int(seconds * 1_000_000)
    decision = more.get("decision", DENY)
    return denials.admit_denied(principal, peer, call(method, "admin"), decision, micros, seconds)


def decoded(summary: Summary) -> dict[str, Any]:
    """Return the members of a summary's record."""
    found: dict[str, Any] = orjson.loads(b"{" + summary.encode(TimestampEncoder()))
    return found


def test_the_first_are_recorded_and_the_rest_are_one_record_a_minute() -> None:
    """Two thousand denials are sixty records and a summary: how many, of what, until when."""
    denials = DenialSummaries(60)
    written = [
        deny(denials, method="pause" if n % 4 else "disable_worker", seconds=n / 100)
        for n in range(2000)
    ]
    assert written == [True] * 60 + [False] * 1940
    assert list(denials.expired(WINDOW_SECONDS - 0.1)) == []
    [summary] = denials.expired(WINDOW_SECONDS)
    assert decoded(summary) == {
        "stage": "decided",
        "principal": {
            "issuer": "https://idp.example/",
            "issuer_name": "okta",
            "subject": "alice",
            "roles": ["viewer"],
            "agent": False,
        },
        "decision": "deny",
        "policy_hash": HASH,
        "summary": {
            "count": 1940,
            "first": "2026-01-01T00:00:00.600000Z",
            "last": "2026-01-01T00:00:19.990000Z",
            "reasons": {"no-policy-allows": 1940},
            "calls": [
                {
                    "upstream": "luigi",
                    "method": method,
                    "permission": "admin",
                    "reason": "no-policy-allows",
                    "address": "10.0.0.7",
                    "count": count,
                }
                for method, count in (("pause", 1455), ("disable_worker", 485))
            ],
        },
    }
    assert not denials.watching
    assert deny(denials, seconds=61.0)


def test_principals_do_not_hide_each_other() -> None:
    """A flood of one leaves the denials of another recorded one by one; an agent counts apart from
    the person that it acts for.
    """
    denials = DenialSummaries(2)
    for _ in range(50):
        deny(denials)
    assert deny(denials, WORKER)
    assert deny(denials, replace(ALICE, agent=True))


def test_addresses_and_groups_do_not_evade_the_rate() -> None:
    """The rate is that of issuer and subject, from wherever and with whichever token."""
    denials = DenialSummaries(10)
    recorded = sum(
        deny(
            denials,
            replace(ALICE, groups=(f"g{n}",), roles=(f"r{n}",), expires=float(n)),
            peer=replace(HERE, address=f"10.0.0.{n}"),
        )
        for n in range(200)
    )
    assert recorded == 10


def test_denied_and_rejected_share_one_rate_and_have_a_summary_each() -> None:
    """A principal that is refused in both ways gets no more records than in one."""
    denials = DenialSummaries(10)
    for _ in range(50):
        deny(denials, decision=FORBIDDEN)
        denials.admit_rejected(ALICE, HERE, "luigi", "no-role", START, 0.0)
    by_stage = {each.stage: decoded(each) for each in denials.expired(0.0, force=True)}
    assert {stage: found["summary"]["count"] for stage, found in by_stage.items()} == {
        "decided": 45,
        "rejected": 45,
    }
    assert by_stage["rejected"]["summary"]["calls"] == [
        {"upstream": "luigi", "reason": "no-role", "address": "10.0.0.7", "count": 45}
    ]
    assert "decision" not in by_stage["rejected"]


def test_made_up_methods_take_bounded_memory_and_count_by_reason() -> None:
    """Beyond `MAX_PARTS` combinations only their reason is counted, and everything adds up. What
    the catalog has is counted by its name all the same: a flood hides no attempt.
    """
    denials = DenialSummaries(1)
    deny(denials)
    for n in range(5000):
        deny(denials, method=f"made_up_{n}" + "x" * 1000, decision=UNKNOWN)
    deny(denials, decision=FORBIDDEN)
    for n in range(20):
        deny(denials, peer=replace(HERE, address=f"10.0.1.{n}"))
    [summary] = denials.expired(0.0, force=True)
    data = summary.encode(TimestampEncoder())
    found = orjson.loads(b"{" + data)["summary"]
    assert len(data) < 16_384
    assert len(found["calls"]) == MAX_PARTS + 3
    assert found["count"] == sum(part["count"] for part in found["calls"]) == 5021
    assert found["reasons"] == {"no-policy-allows": 20, "policy-forbids": 1, "unknown-method": 5000}
    assert [part["reason"] for part in found["calls"] if "method" not in part] == ["unknown-method"]
    assert {p["reason"]: p["count"] for p in found["calls"] if p.get("method") == "pause"} == {
        "no-policy-allows": 20,
        "policy-forbids": 1,
    }


def test_the_methods_of_the_largest_catalog_take_bounded_memory() -> None:
    """Beyond `MAX_PARTS_IN_ALL` combinations everything is counted by reason, and adds up."""
    denials = DenialSummaries(0)
    for n in range(1000):
        deny(denials, method=f"method_{n}", decision=(DENY, FORBIDDEN)[n % 2])
    [summary] = denials.expired(0.0, force=True)
    found = decoded(summary)["summary"]
    assert len(found["calls"]) == MAX_PARTS_IN_ALL + 2
    assert found["count"] == sum(part["count"] for part in found["calls"]) == 1000


def test_many_principals_are_bounded_in_memory_and_in_total() -> None:
    """Beyond `MAX_PRINCIPALS` all others share a window without a name; beyond the total rate
    denials of a new principal are counted too. Each is recorded or counted.
    """
    denials = DenialSummaries(1)
    count = MAX_PRINCIPALS + 500
    recorded = sum(deny(denials, replace(ALICE, subject=f"user-{n}")) for n in range(count))
    summaries = list(denials.expired(0.0, force=True))
    assert recorded == 100
    assert recorded + sum(each.count for each in summaries) == count
    [others] = [each for each in summaries if each.principal is None]
    assert others.count == 500
    assert "principal" not in decoded(others)


def test_without_room_rejections_are_counted() -> None:
    """While the log cannot take more, rejections are counted."""
    denials = DenialSummaries()
    assert not denials.admit_rejected(ALICE, HERE, None, "overloaded", START, 0.0, room=False)
    [summary] = denials.expired(0.0, force=True)
    assert summary.count == 1


@pytest.mark.parametrize("per_minute", [1, 7, 60])
def test_the_rate_is_a_setting(per_minute: int) -> None:
    """So many a minute, and as many in the next."""
    denials = DenialSummaries(per_minute)
    for begun in (0.0, 60.0):
        assert sum(deny(denials, seconds=begun) for _ in range(200)) == per_minute
        list(denials.expired(begun + 60.0))
