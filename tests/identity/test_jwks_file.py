import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.errors import Rejected
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.model import Reason
from tests.support.tokens import AUDIENCE, ISSUER, ec_private, jwk, key_set


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
    opened = Path.open

    def open_and_lose(self: Path, mode: str) -> object:
        file = opened(self, mode)
        fresh.replace(path)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_and_lose)
        source.poll()
    assert source.keys is not None and source.keys.find("a") is not None
    source.poll()
    assert source.keys.find("b") is not None


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
    "data", [b"", b"<html>", b'{"keys":[]}', key_set({"kty": "oct", "k": "AAAA"}), b" " * 300_000]
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
