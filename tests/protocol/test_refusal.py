import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import REASONS, Rejected
from proxy.model import Call, Decision, Peer, Principal, Reason, Request
from proxy.protocol.refusal import (
    Refusal,
    json_refusal,
    missing_role,
    posts_xml,
    supervisorctl_refusal,
    wrong_path_refusal,
)

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


def sent(verb: str = "POST", **headers: bytes) -> Request:
    """A request with these headers, ``_`` for ``-``."""
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Request("7Q2M", verb, "/x", None, named, b"", Peer("127.0.0.1", 1, "TLSv1.3", ""))


@pytest.mark.parametrize(
    ("kind", "is_xml"),
    [
        (b"text/xml", True), (b"text/xml; charset=utf-8", True), (b"Application/XML", True), (b"text/xml;", True),
        (b"text/xmlx", False), (b"text/html", False), (b"", False), (b"application/xml+x", False),
    ],
)  # fmt: skip
def test_a_post_of_xml_is_one_by_its_type(kind: bytes, is_xml: bool) -> None:
    """Parameters and case aside; a GET has no body whatever it declares."""
    assert posts_xml(sent(content_type=kind)) is is_xml
    assert not posts_xml(sent("GET", content_type=kind))


def test_a_wrong_path_is_refused_in_the_protocol_of_the_request() -> None:
    """XML gets a fault, a browser a page, everything else JSON; each has the line."""
    error = Rejected(Reason.NOT_FOUND, "did you mean /api/ping?")
    refusal = Refusal.from_error(error, "7Q2M")
    line = "No upstream serves this path: did you mean /api/ping? [not-found, ref 7Q2M]"
    assert refusal.message == "callgate: " + line
    for request, status, kind in (
        (sent(content_type=b"text/xml"), 200, b"text/xml"),
        (sent("GET", accept=b"text/html,*/*"), 404, b"text/html; charset=utf-8"),
        (sent("GET", sec_fetch_mode=b"navigate"), 404, b"text/html; charset=utf-8"),
        (sent("GET", accept=b"*/*"), 404, b"application/json"),
        (sent(), 404, b"application/json"),
    ):
        response = wrong_path_refusal(refusal, request)
        assert (response.status, response.content_type) == (status, kind)
        assert line.encode() in response.body


def test_supervisorctl_gets_what_it_prints() -> None:
    """A status with the line as its phrase, or a text; other clients are not concerned."""
    expired = Refusal.from_error(Rejected(Reason.TOKEN_EXPIRED), "7Q2M")
    ctl = sent(content_type=b"text/xml", accept=b"text/xml", user_agent=b"Python-xmlrpc/3.11")
    response = supervisorctl_refusal(expired, ctl)
    assert response is not None
    assert (response.status, response.phrase) == (403, expired.message.encode())
    # It asks for a password after this one.
    missing = supervisorctl_refusal(Refusal.from_error(Rejected(Reason.NO_CREDENTIAL), "7Q2M"), ctl)
    assert missing is not None
    assert missing.status == 401
    follower = supervisorctl_refusal(expired, sent("GET", user_agent=b"Supervisor HTTP Client"))
    assert follower is not None
    assert (follower.status, follower.body) == (200, expired.message.encode() + b"\n")
    for other in (
        sent(content_type=b"text/xml", user_agent=b"Python-xmlrpc/3.11"),
        sent(accept=b"text/xml", user_agent=b"curl/8"),
    ):
        assert supervisorctl_refusal(expired, other) is None


def test_a_denial_says_that_a_method_is_unclassified() -> None:
    """The name is right, so none is proposed: the catalog lacks its permission."""
    call = Call("launcher", "xmlrpc", "launch", "admin", {}, in_catalog=False)
    decision = Decision("deny", Reason.UNKNOWN_METHOD, (), "sha256:0")
    refusal = Refusal.from_decision(ALICE, call, decision, "7Q2M", unclassified=True)
    assert refusal.message == (
        "callgate: alice (viewer) may not launch launcher: "
        "the catalog leaves its permission unclassified [unknown-method, ref 7Q2M]"
    )
