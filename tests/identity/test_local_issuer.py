import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.errors import ConfigError, Rejected
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwk import load_key_set
from proxy.identity.jwks_file import JwksFile
from proxy.identity.local_issuer import MAX_LIFETIME_SECONDS, LocalIssuer
from proxy.identity.verifier import Verifier
from proxy.model import Credentials, Principal, Reason
from tests.support.tokens import NOW, bearer, ed_private, viewer


def gate(local: LocalIssuer) -> Verifier:
    """Return a verifier of `local`'s tokens, on the default settings."""
    return Verifier(
        [Issuer("local", TokenProfile(local.issuer, (local.audience,)), JwksFile(local.key_set))],
        viewer,
    )


def kids(local: LocalIssuer) -> list[str | None]:
    """Return the names of the published keys."""
    return [key.kid for key in load_key_set(local.key_set.read_bytes()).keys]


async def reason(verifier: Verifier, text: str, now: float) -> Reason:
    """Return why `text` is refused."""
    with pytest.raises(Rejected) as refused:
        await verifier.authenticate(Credentials(bearer(text)), now)
    return refused.value.reason


async def test_a_token_is_accepted_by_the_verifier(tmp_path: Path) -> None:
    """A token of the local issuer meets its own profile, until it expires."""
    local = LocalIssuer(tmp_path / "issuer")
    verifier = gate(local)
    text = local.issue("etl-07", ["etl", "dev", "etl"], 3600, NOW)
    expected = Principal(
        local.issuer, "local", "etl-07", ("viewer",), ("dev", "etl"), False, NOW + 3600
    )
    assert await verifier.authenticate(Credentials(bearer(text)), NOW) == expected
    assert await reason(verifier, text, NOW + 3600) is Reason.TOKEN_EXPIRED


async def test_issuer_and_audience_are_as_set(tmp_path: Path) -> None:
    """Tokens name the issuer and audience of the settings; another audience is refused."""
    local = LocalIssuer(tmp_path, issuer="https://gate.example/issuer", audience="luigi")
    assert (
        await gate(local).authenticate(Credentials(bearer(local.issue("a", [], 60, NOW))), NOW)
    ).issuer == "https://gate.example/issuer"
    assert (
        await reason(gate(local), local.issue("a", [], 60, NOW, audience="other"), NOW)
        is Reason.WRONG_AUDIENCE
    )


def test_keys_are_made_on_first_use_for_the_owner_alone(tmp_path: Path) -> None:
    """The directory is 0700 and the state 0600; the published set is readable for all and has
    public parts only.
    """
    local = LocalIssuer(tmp_path / "a" / "issuer")
    local.prepare(NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in local.directory.iterdir()}
    assert stat.S_IMODE(local.directory.stat().st_mode) == 0o700
    assert modes == {"state.json": 0o600, "jwks.json": 0o644, "lock": 0o600}
    (key,) = json.loads(local.key_set.read_text())["keys"]
    assert set(key) == {"crv", "kty", "x", "y", "kid", "alg", "use"}
    before = kids(local)
    local.prepare(NOW)
    LocalIssuer(local.directory).issue("a", [], 60, NOW)
    assert kids(local) == before


async def test_rotation_keeps_the_old_key_until_its_tokens_have_expired(tmp_path: Path) -> None:
    """After a rotation old and new tokens are good; the old key goes after its last token expired."""
    local = LocalIssuer(tmp_path)
    verifier = gate(local)
    long, short = local.issue("long", [], 1000, NOW), local.issue("short", [], 10, NOW)
    (old,) = kids(local)
    new = local.rotate(NOW + 1)
    assert new != old and kids(local) == [new, old]
    fresh = local.issue("fresh", [], 5000, NOW + 1)
    for text, subject in ((long, "long"), (short, "short"), (fresh, "fresh")):
        assert (await verifier.authenticate(Credentials(bearer(text)), NOW + 2)).subject == subject
    local.issue("x", [], 10, NOW + 999)
    assert kids(local) == [new, old]
    assert (await verifier.authenticate(Credentials(bearer(long)), NOW + 999)).subject == "long"
    local.issue("x", [], 10, NOW + 1100)
    assert kids(local) == [new]
    assert (await verifier.authenticate(Credentials(bearer(fresh)), NOW + 1100)).subject == "fresh"


def test_a_retired_private_part_is_gone(tmp_path: Path) -> None:
    """After a rotation nothing in the directory can sign with the old key."""
    local = LocalIssuer(tmp_path)
    local.issue("a", [], 1000, NOW)
    secret = json.loads((tmp_path / "state.json").read_text())["signing"]["pem"]
    local.rotate(NOW)
    assert all(secret.splitlines()[1] not in path.read_text() for path in tmp_path.iterdir())


def test_a_key_that_signed_nothing_is_dropped_at_once(tmp_path: Path) -> None:
    """Rotations of unused keys do not add up; the first rotation only makes the first key."""
    local = LocalIssuer(tmp_path)
    assert kids_after_rotations(local, 5) == 1


def kids_after_rotations(local: LocalIssuer, times: int) -> int:
    """Return how many keys are published after so many rotations."""
    for _ in range(times):
        local.rotate(NOW)
    return len(kids(local))


def test_rotations_are_bounded_by_the_keys_that_a_verifier_accepts(tmp_path: Path) -> None:
    """When too many retired keys still have valid tokens, rotation is refused and changes nothing."""
    local = LocalIssuer(tmp_path)
    with pytest.raises(ConfigError, match="still have valid tokens"):
        for _ in range(60):
            local.issue("a", [], 1000, NOW)
            local.rotate(NOW)
    assert 10 < len(kids(local)) <= 50


@pytest.mark.parametrize("ttl", [0, -1, MAX_LIFETIME_SECONDS + 1])
def test_lifetimes_are_bounded(tmp_path: Path, ttl: int) -> None:
    """A token has a lifetime, of at most a year."""
    with pytest.raises(ValueError, match="lifetime"):
        LocalIssuer(tmp_path).issue("a", [], ttl, NOW)


def test_the_settings_can_bound_lifetimes_further(tmp_path: Path) -> None:
    """A shorter maximum holds; a longer one than 366 days does not."""
    assert LocalIssuer(tmp_path, max_lifetime_seconds=60).issue("a", [], 60, NOW)
    with pytest.raises(ValueError, match="lifetime"):
        LocalIssuer(tmp_path, max_lifetime_seconds=60).issue("a", [], 61, NOW)
    with pytest.raises(ValueError, match="lifetime"):
        LocalIssuer(tmp_path, max_lifetime_seconds=1e12).issue(
            "a", [], MAX_LIFETIME_SECONDS + 1, NOW
        )


@pytest.mark.parametrize(
    ("subject", "groups"),
    [("", []), ("a\nb", []), ("a" * 256, []), ("a", [""]), ("a", ["x\n"]), ("a", "etl")],
)
def test_names_that_the_verifier_refuses_are_not_issued(
    tmp_path: Path, subject: str, groups: list[str]
) -> None:
    """A subject or group that the verifier refuses never gets into a token."""
    with pytest.raises(ValueError, match="printable"):
        LocalIssuer(tmp_path).issue(subject, groups, 60, NOW)


def test_a_token_that_is_too_large_is_not_issued(tmp_path: Path) -> None:
    """A token with more groups than the verifier accepts is refused here already."""
    with pytest.raises(ValueError, match="bytes that Callgate accepts"):
        LocalIssuer(tmp_path).issue("a", [f"group-{number:05}" for number in range(2000)], 60, NOW)


def test_a_lost_key_set_is_made_again(tmp_path: Path) -> None:
    """The published set follows from the state: removed or altered, the next use writes it again."""
    local = LocalIssuer(tmp_path)
    local.prepare(NOW)
    before = local.key_set.read_bytes()
    local.key_set.unlink()
    local.issue("a", [], 60, NOW)
    assert local.key_set.read_bytes() == before
    local.key_set.write_text("{}")
    local.prepare(NOW)
    assert local.key_set.read_bytes() == before


@pytest.mark.parametrize(
    "damage", ["", "{}", "[]", '{"version":2}', '{"version":1,"signing":{},"retired":[]}']
)
def test_a_damaged_state_is_never_replaced(tmp_path: Path, damage: str) -> None:
    """Damaged state is reported with a hint, and left as it is: new keys would void every token."""
    local = LocalIssuer(tmp_path)
    local.prepare(NOW)
    state = tmp_path / "state.json"
    state.write_text(damage)
    for call in (
        lambda: local.issue("a", [], 60, NOW),
        lambda: local.rotate(NOW),
        lambda: local.prepare(NOW),
    ):
        with pytest.raises(ConfigError) as refused:
            call()
        assert "state.json" in refused.value.problems[0].location
    assert state.read_text() == damage


def test_a_secret_slipped_into_a_public_key_is_not_published(tmp_path: Path) -> None:
    """A state whose public part holds more than public members is refused."""
    local = LocalIssuer(tmp_path)
    local.prepare(NOW)
    state = json.loads((tmp_path / "state.json").read_text())
    state["signing"]["jwk"]["d"] = "AAAA"
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError):
        local.prepare(NOW)


def test_open_permissions_are_refused(tmp_path: Path) -> None:
    """A state that other users may read, or a directory that they may write, is refused with the
    command that repairs it.
    """
    local = LocalIssuer(tmp_path / "issuer")
    local.prepare(NOW)
    (local.directory / "state.json").chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        local.issue("a", [], 60, NOW)
    assert "chmod 600" in refused.value.problems[0].hint
    (local.directory / "state.json").chmod(0o600)
    local.directory.chmod(0o777)
    with pytest.raises(ConfigError) as refused:
        local.issue("a", [], 60, NOW)
    assert "chmod 700" in refused.value.problems[0].hint


def test_a_full_disk_gives_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the latest expiry cannot be made durable, no token is returned, and the error names the
    file.
    """
    local = LocalIssuer(tmp_path)
    local.prepare(NOW)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        local.issue("a", [], 60, NOW)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file at the directory's path is a `ConfigError`, not an `OSError`."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        LocalIssuer(tmp_path / "file").prepare(NOW)


def test_the_file_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A partial state holds a private key, so it is removed."""
    left = tmp_path / ".state.json.0011.partial"
    left.write_text("secret")
    LocalIssuer(tmp_path).prepare(NOW)
    assert not left.exists()


ISSUE_AND_ROTATE = """
import sys
from pathlib import Path
from proxy.identity.local_issuer import LocalIssuer
local = LocalIssuer(Path(sys.argv[1]))
for number in range(5):
    print(local.issue(f"{sys.argv[2]}-{number}", [], 3600, float(sys.argv[3])))
    if number % 2:
        local.rotate(float(sys.argv[3]))
"""


@pytest.mark.process
async def test_processes_issue_and_rotate_at_once(tmp_path: Path) -> None:
    """Four processes issue and rotate in one directory at the same time; every token is good
    afterwards.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ISSUE_AND_ROTATE,
            str(tmp_path / "issuer"),
            str(which),
            str(NOW),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        for which in range(4)
    ]
    printed = [
        (await asyncio.wait_for(process.communicate(), 60))[0].decode().split()
        for process in started
    ]
    assert [process.returncode for process in started] == [0, 0, 0, 0]
    verifier = gate(LocalIssuer(tmp_path / "issuer"))
    subjects = {
        (await verifier.authenticate(Credentials(bearer(text)), NOW)).subject
        for texts in printed
        for text in texts
    }
    assert subjects == {f"{which}-{number}" for which in range(4) for number in range(5)}


@pytest.mark.parametrize(
    ("key", "value"), [("version", 2), ("retired", {}), ("signing", []), ("signing", "a key")]
)
def test_a_state_of_another_form_is_refused(tmp_path: Path, key: str, value: object) -> None:
    """A later version's state, or one with another kind of key, is not this issuer's."""
    local = LocalIssuer(tmp_path)
    local.prepare(NOW)
    state = tmp_path / "state.json"
    document = json.loads(state.read_bytes())
    if value == "a key":
        pem = ed_private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        document["signing"]["pem"] = pem.decode()
    else:
        document[key] = value
    state.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="is not the state of a local issuer"):
        local.issue("a", [], 60, NOW)
