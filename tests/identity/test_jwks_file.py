import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.errors import Rejected
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.model import Reason
from tests.support.tokens import AUDIENCE, ISSUER, Clock, ec_private, jwk, key_set


async def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    """A new file at the path is read, also with the times of the old one."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source = JwksFile(path)
    await source.start()
    times = path.stat()
    fresh = tmp_path / "fresh"
    fresh.write_bytes(key_set(jwk(ec_private(), "b")))
    os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
    fresh.replace(path)
    source.poll()
    assert source.keys is not None and [key.kid for key in source.keys.keys] == ["b"]
    assert source.generation == 1


async def test_a_file_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded identity is that of the file that was read, so its successor is read at the next
    poll.
    """
    path, fresh = tmp_path / "keys.json", tmp_path / "fresh"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    fresh.write_bytes(key_set(jwk(ec_private(), "b")))
    source = JwksFile(path)
    opened = os.open

    def open_and_lose(path: str, flags: int) -> int:
        file = opened(path, flags)
        fresh.replace(path)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_and_lose)
        source.poll()
    assert source.keys is not None and source.keys.find("a") is not None
    source.poll()
    assert source.keys.find("b") is not None


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_file_does_not_stop_the_process(tmp_path: Path, kind: str) -> None:
    """A pipe that nobody writes would hold the event loop for ever. The last good keys stay."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source = JwksFile(path)
    source.poll()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    source.poll()
    assert source.problem is not None and not source.readable
    assert source.keys is not None and source.keys.find("a") is not None


async def test_keys_without_use_are_logged_once(tmp_path: Path) -> None:
    """The log names a key of a set that is skipped, and names it again only when that changes."""
    path = tmp_path / "keys.json"
    source = JwksFile(path)
    with capture_logs() as logs:
        for kid in ("a", "b"):
            path.write_bytes(key_set(jwk(ec_private(), kid), {"kty": "new"}))
            source.poll()
    assert [(entry["event"], entry["problem"]) for entry in logs] == [
        ("issuer key skipped", "keys[1] skipped: its kty is not RSA, EC or OKP")
    ]


async def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    """While the file stays the same, the same key objects stay in use."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source = JwksFile(path)
    source.poll()
    first = source.keys
    await source.on_unknown_kid()
    assert source.keys is first


@pytest.mark.parametrize(
    "data", [b"", b"<html>", key_set({"kty": "oct", "k": "AAAA"}), b" " * 300_000]
)
async def test_last_good_keys_stay_in_use(tmp_path: Path, data: bytes) -> None:
    """A file that is removed, damaged or refused changes no keys, and `problem` says why."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source = JwksFile(path)
    source.poll()
    path.write_bytes(data)
    source.poll()
    assert source.problem is not None
    assert source.generation == 0
    assert source.keys is not None
    path.unlink()
    source.poll()
    assert "No such file" in source.problem
    assert source.keys.find("a") is not None
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source.poll()
    assert source.problem is None


async def test_a_file_that_comes_later_is_found(tmp_path: Path) -> None:
    """Without a file the issuer is unavailable; once there is one, its keys serve."""
    path = tmp_path / "keys.json"
    issuer = Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,)), JwksFile(path))
    await issuer.source.start()
    with pytest.raises(Rejected) as refused:
        await issuer.resolve_key("a")
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE and refused.value.retry_after == 1
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    assert (await issuer.resolve_key("a")).kid == "a"
    await issuer.source.close()


@pytest.mark.parametrize(
    "data", [key_set(), key_set({"kty": "new"}), key_set(jwk(ec_private(which=1), "b"))]
)
async def test_what_a_set_has_no_more_is_withdrawn_at_once(tmp_path: Path, data: bytes) -> None:
    """An empty set, one without a usable key and one with another key take the old key away."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source = JwksFile(path)
    source.poll()
    path.write_bytes(data)
    source.poll()
    assert source.keys is not None and source.keys.find("a") is None
    assert source.generation == 1
    assert source.readable


async def test_a_change_within_the_tick_of_a_clock_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set of the same size, written in place so soon that the times of the file stay the same."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private(), "a")))
    source = JwksFile(path)
    source.poll()
    before = path.stat()
    path.write_bytes(key_set(jwk(ec_private(), "b")))
    monkeypatch.setattr(os, "fstat", lambda _: before)
    source.poll()
    assert source.keys is not None and source.keys.find("a") is None


@pytest.mark.parametrize("how", ["removed", "damaged", "unreadable"])
async def test_a_file_that_cannot_be_read_is_an_alarm_and_keeps_its_keys_for_a_time(
    tmp_path: Path, how: str
) -> None:
    """One error in the log, the last good keys for `max_age_seconds` after they were last seen, and
    then none, with another error; afterwards a good file serves again.
    """
    path, clock = tmp_path / "keys.json", Clock()
    good = key_set(jwk(ec_private(), "a"))
    path.write_bytes(good)
    issuer = Issuer(
        "idp",
        TokenProfile(ISSUER, (AUDIENCE,)),
        source := JwksFile(path, max_age_seconds=3600, clock=clock),
    )
    source.poll()
    clock.now += 10_000  # the file is there, and good: its keys do not age
    source.poll()
    with capture_logs() as logs:
        path.unlink()
        if how == "damaged":
            path.write_bytes(b'{"keys":')
        elif how == "unreadable":
            path.mkdir()
        for _ in range(3):
            clock.now += 1199
            source.poll()
        assert not source.readable
        assert issuer.key("a") is not None
        clock.now += 3
        source.poll()
    assert issuer.key("a") is None
    assert (source.usable_keys, source.generation) == (0, 1)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("issuer keys not read", "error"),
        ("issuer keys dropped: not read for too long", "error"),
    ]
    with pytest.raises(Rejected) as refused:
        await issuer.resolve_key("a")
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE
    assert "for too long" in refused.value.detail
    if how == "unreadable":
        path.rmdir()
    path.write_bytes(good)
    assert (await issuer.resolve_key("a")).kid == "a"
    assert source.readable


async def test_a_file_that_is_made_later_is_no_alarm_before(tmp_path: Path) -> None:
    """The local issuer has no file before its first token: a warning. A file that was there and is
    gone is an error.
    """
    path = tmp_path / "keys.json"
    source = JwksFile(path, made_later=True)
    with capture_logs() as logs:
        source.poll()
        path.write_bytes(key_set(jwk(ec_private(), "a")))
        source.poll()
        path.unlink()
        source.poll()
    levels = [entry["log_level"] for entry in logs if entry["event"] == "issuer keys not read"]
    assert levels == ["warning", "error"]
