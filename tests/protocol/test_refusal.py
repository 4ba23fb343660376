import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import REASONS, Rejected
from proxy.model import Call, Decision, Principal, Reason
from proxy.protocol.refusal import Refusal, json_refusal, missing_role

ALICE = Principal("https://idp.example", "okta", "alice", ("viewer",))


def denied(
    principal: Principal = ALICE, method: str = "pause", reason: Reason = Reason.NO_POLICY_ALLOWS
) -> str:
    """The line of a denial."""
    call = Call("luigi", "luigi", method, "admin", {"task_id": "secret-argument"})
    refusal = Refusal.from_decision(
        principal, call, Decision("deny", reason, (), "sha256:0"), "7Q2M"
    )
    assert (refusal.reason, refusal.status, refusal.method) == (
        reason,
        REASONS[reason].status,
        method,
    )
    return refusal.message


def test_a_denial_says_who_may_not_do_what_where_and_why() -> None:
    """The one line that reaches a worker's user, in a fixed form that ends with the code and the
    reference.
    """
    assert denied() == "callgate: alice (viewer) may not pause luigi [no-policy-allows, ref 7Q2M]"
    nobody = Principal("https://idp.example", "okta", "bob", ())
    assert (
        denied(nobody, reason=Reason.NO_ROLE)
        == "callgate: bob (no role) may not pause luigi [no-role, ref 7Q2M]"
    )


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_can_be_said_in_one_line(reason: Reason) -> None:
    """The meaning in the reason table fits a status line: ASCII, no control characters, not too
    long for any client.
    """
    line = Refusal.from_error(Rejected(reason, "x" * 200), "7Q2M").message
    assert line.isascii()
    assert line.isprintable()
    assert line.endswith(f" [{reason}, ref 7Q2M]")
    assert len(line) < 500


@given(st.text(), st.text(), st.text(min_size=1))
def test_no_name_breaks_the_line(subject: str, role: str, method: str) -> None:
    """Whatever a subject, a role or a method is called: one line of printable ASCII, no brackets of
    its own, no markup.
    """
    line = denied(Principal("https://idp.example", "okta", subject, (role,)), method)
    assert line.isascii()
    assert line.isprintable()
    assert line.count("[") == line.count("]") == 1
    assert "<" not in line
    assert "secret-argument" not in line


@given(st.text())
def test_no_detail_breaks_the_status_line(detail: str) -> None:
    """A detail is a caller's business only within one line; the phrase on the wire holds no line
    break.
    """
    phrase = json_refusal(Refusal.from_error(Rejected(Reason.BAD_ARGUMENTS, detail), "7Q2M")).phrase
    assert b"\r" not in phrase
    assert b"\n" not in phrase
    assert phrase.isascii()


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([], "the token names no group"),
        (["etl"], "no role for the token's group etl"),
        (["a", "b"], "no role for the token's groups a, b"),
        ([f"g{n}" for n in range(40)], " more"),
    ],
)
def test_a_missing_role_says_which_groups_came(groups: list[str], text: str) -> None:
    """Whether none came, or which did, cut to a few."""
    said = missing_role(groups)
    assert text in said
    assert len(said) < 400


@pytest.mark.parametrize("prompt", [True, False])
def test_each_challenge_has_a_line_of_its_own(prompt: bool) -> None:
    """Chromium takes a line with two challenges for one, of a scheme that it does not know, and
    prompts for no password. A script's call gets none to prompt for.
    """
    refusal = Refusal.from_error(Rejected(Reason.NO_CREDENTIAL), "7Q2M", prompt=prompt)
    challenges = [v for name, v in json_refusal(refusal).headers if name == b"www-authenticate"]
    basic = [b'Basic realm="callgate"'] if prompt else []
    assert challenges == [b'Bearer realm="callgate"', *basic]
