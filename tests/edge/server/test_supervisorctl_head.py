import base64

import pytest

from proxy.edge.server.supervisorctl_head import may_need_mending, mend_head

SECRET = b"jwt:" + b"t" * 300
FOLDED = base64.encodebytes(SECRET).strip()


def head(credential: bytes, *, path: bytes = b"/logtail/a/stdout", more: bytes = b"") -> bytes:
    """Return the head that supervisorctl sends."""
    return (
        b"GET " + path + b" HTTP/1.1\r\nHost: a:1\r\nAccept: */*\r\n"
        b"Authorization: Basic " + credential + b"\r\n" + more + b"\r\n"
    )


def test_a_long_credential_becomes_one_line() -> None:
    """What stands behind the head stays as it is."""
    assert b"\n" in FOLDED
    expected = head(base64.b64encode(SECRET))
    assert mend_head(head(FOLDED)) == expected
    assert mend_head(head(FOLDED) + b"\r\n") == expected + b"\r\n"
    for end in range(len(head(FOLDED)) - 1):
        assert mend_head(head(FOLDED)[:end]) is None


@pytest.mark.parametrize(
    "unchanged",
    [
        head(b"YTpi"),
        head(FOLDED.replace(b"\n", b"\r\n")),
        head(FOLDED.replace(b"\n", b"\n ")),
        head(FOLDED.replace(b"\n", b"\n\n")),
        head(FOLDED + b"\nX-Other: 1"),
        head(FOLDED[:70] + b"\n" + FOLDED[70:]),
        head(FOLDED.replace(b"\n", b"\n:", 1)),
        head(FOLDED).replace(b"Authorization: Basic", b"Authorization: Bearer"),
        head(FOLDED).replace(b"Authorization: Basic", b"X: Basic"),
        head(b"YTpi") + head(FOLDED),
    ],
)
def test_nothing_else_is_changed(unchanged: bytes) -> None:
    """Line feeds in any other place are left for the parser, which refuses them."""
    assert mend_head(unchanged) == unchanged


@pytest.mark.parametrize(
    ("data", "may"),
    [
        (b"GET /logtail/a/stdout HTTP/1.1", True),
        (b"GET /mainlogtail HTTP/1.1", True),
        (b"POST /logtail/a HTTP/1.1", False),
        (b"GET /mainlogtails HTTP/1.1", False),
        (b"GET /api/task_list HTTP/1.1", False),
        (b"GET /", False),
        (b"", False),
    ],
)
def test_only_heads_of_logs_are_looked_at(data: bytes, may: bool) -> None:
    """Other requests are not gathered before they are parsed."""
    assert may_need_mending(data) is may
