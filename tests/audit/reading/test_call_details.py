from pathlib import Path

from proxy.audit.reading.call_details import call_details, policy_text
from proxy.model import Decision, Reason
from tests.support.audit import ALLOW, HASH, HERE, WORKER, call, one, open_journal

BASE = '// "; not here\n@id("a;b") permit (principal, action, resource) // ;\nwhen { "x;y" != "" };\n@id("two") forbid (principal);'
TEXTS = {"base.cedar": BASE}


def test_a_policy_is_cut_out_whole() -> None:
    """Semicolons in texts and comments do not end a policy; one that is not there is none."""
    assert (
        policy_text(TEXTS, "a;b")
        == '@id("a;b") permit (principal, action, resource) // ;\nwhen { "x;y" != "" };'
    )
    assert policy_text(TEXTS, "two") == '@id("two") forbid (principal);'
    assert (
        policy_text(TEXTS, "three") is None
        and policy_text({"roles.toml": '@id("two")'}, "two") is None
    )


async def test_a_call_is_shown_with_the_policy_of_its_time(tmp_path: Path) -> None:
    """The text is the one in force when the call was decided, though the set has changed since;
    neighbours stand beside it.
    """
    journal = open_journal(tmp_path)
    journal.policy_in_force(
        HASH,
        {"base.cedar": '@id("etl-workers-work") permit (principal, action, resource); // then'},
    )
    for n in range(5):
        await one(journal, n)
    journal.policy_in_force(
        "sha256:" + "cd" * 32,
        {
            "base.cedar": '@id("etl-workers-work") permit (principal, action, resource) when { false };'
        },
    )
    await journal.close()
    [whole] = call_details(tmp_path, "call-2")
    assert (
        whole.policies
        == {"etl-workers-work": '@id("etl-workers-work") permit (principal, action, resource);'}
        and not whole.caveats
    )
    assert whole.call.result == "ok" and [item.record.stage for item in whole.entries] == [
        "decided",
        "completed",
    ]
    assert [getattr(r.record, "id", None) for r in whole.before] == ["call-0", "call-1"]
    assert [getattr(r.record, "id", None) for r in whole.after] == ["call-3", "call-4"]


async def test_doubts_are_said(tmp_path: Path) -> None:
    """Texts that were changed after they were kept, or are not kept, are not shown as if they were
    the ones in force.
    """
    journal = open_journal(tmp_path)
    journal.policy_in_force(HASH, {"base.cedar": '@id("etl-workers-work") permit (principal);'})
    await one(journal, 1)
    other = Decision("allow", Reason.ALLOWED, ("x",), "sha256:" + "ef" * 32)
    await journal.decide("unkept", WORKER, HERE, [(call(), other)], 0)
    await journal.decide(
        "nameless", WORKER, HERE, [(call(), Decision("allow", Reason.ALLOWED, ("gone",), HASH))], 0
    )
    await journal.close()
    [unkept], [nameless] = call_details(tmp_path, "unkept"), call_details(tmp_path, "nameless")
    assert (
        "not in the audit directory" in unkept.caveats[0]
        and "no policy gone" in nameless.caveats[0]
    )
    kept = tmp_path / "policies" / ("ab" * 32 + ".json")
    kept.write_text(kept.read_text().replace("permit", "forbid"))
    [changed] = call_details(tmp_path, "call-1")
    assert "another hash" in changed.caveats[0]


async def test_a_multicall_is_found_by_its_request(tmp_path: Path) -> None:
    """The request's id finds all its calls, a call's own id that one; an id that only begins alike
    is another.
    """
    journal = open_journal(tmp_path)
    await journal.decide("R1", WORKER, HERE, [(call("a"), ALLOW), (call("b"), ALLOW)], 0)
    await one(journal, 1)
    await journal.close()
    assert [getattr(w.call.decided, "method", None) for w in call_details(tmp_path, "R1")] == [
        "a",
        "b",
    ]
    assert [getattr(w.call.decided, "method", None) for w in call_details(tmp_path, "R1.1")] == [
        "b"
    ]
    assert call_details(tmp_path, "R") == [] and call_details(tmp_path, "call") == []
