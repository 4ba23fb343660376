"""Targets and hosts have one reading, or are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.server.request_target import read_target
from proxy.errors import Rejected


@pytest.mark.parametrize(
    ("target", "host", "http_1_0", "read"),
    [
        (b"/a?b", b"gate", False, ("/a", "b")),
        (b"/a?", b"gate", False, ("/a", "")),
        (b"/a", None, True, ("/a", None)),
        (b"http://gate/a?b", b"GATE:80", False, ("/a", "b")),
        (b"https://gate:443?b", b"gate", False, ("/", "b")),
        (b"http://[::1]:8443", b"[::1]:8443", False, ("/", None)),
        (b"http://gate/a", None, True, ("/a", None)),
        (b"/-/healthz?x", None, False, ("/-/healthz", "x")),
    ],
)
def test_what_has_one_reading_is_read(
    target: bytes, host: bytes | None, http_1_0: bool, read: tuple[str, str | None]
) -> None:
    """The absolute form is read as the path in it."""
    headers = {} if host is None else {b"host": host}
    assert read_target(target, headers, "GET", http_1_0=http_1_0) == read


@pytest.mark.parametrize(
    ("target", "host", "http_method", "http_1_0"),
    [
        (b"/a", None, "GET", False),
        (b"/", None, "GET", False),
        (b"/a", b"ga te", "GET", True),
        (b"*", b"gate", "GET", False),
        (b"/a", b"gate", "CONNECT", False),
        (b"http://other/a", b"gate", "GET", False),
        (b"http://gate:443/a", b"gate", "GET", False),
        (b"http://gate:80/a", b"gate:443", "GET", False),
        (b"http://gate/a#b", b"gate", "GET", False),
        (b"http://gate/\n", b"gate", "GET", False),
        (b"ftp://gate/a", b"gate", "GET", False),
        (b"http://gate/a", b"", "GET", True),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(
    target: bytes, host: bytes | None, http_method: str, http_1_0: bool
) -> None:
    """Also a missing Host, where HTTP/1.1 demands one."""
    headers = {} if host is None else {b"host": host}
    with pytest.raises(Rejected):
        read_target(target, headers, http_method, http_1_0=http_1_0)


@given(st.binary(max_size=40), st.sampled_from([b"", b"http://", b"http://gate", b"/", b"*"]))
def test_any_target_is_a_path_or_refused(rest: bytes, start: bytes) -> None:
    """No other error, and no path that is not printable ASCII."""
    try:
        path, query = read_target(start + rest, {b"host": b"gate"}, "OPTIONS", http_1_0=False)
    except Rejected:
        return
    assert path == "*" or path.startswith("/")
    assert (path + (query or "")).isascii()
    assert (path + (query or "")).isprintable()
