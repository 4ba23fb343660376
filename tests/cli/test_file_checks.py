import time
from pathlib import Path

import pytest

from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.file_checks import check_files
from proxy.errors import Problem
from tests.support.installation import IDP, SETTINGS, settings_of


def problems_in(directory: Path) -> list[Problem]:
    """Return what is wrong with the files."""
    return list(check_files(settings_of(directory)))


def test_good_files_have_no_problem(good: Path) -> None:
    """Every file of the installation can be used."""
    assert problems_in(good) == []


def test_a_key_of_another_certificate_is_named(good: Path) -> None:
    """The pair is loaded as the listener would load it."""
    other = good / "other"
    other.mkdir()
    make_self_signed(("localhost",), other, now=time.time()).key.rename(good / "tls.key")
    (problem,) = problems_in(good)
    assert problem.location == "callgate.toml:2: listeners[0].certificate"
    assert "cannot be used with its key" in problem.message


@pytest.mark.parametrize(
    ("days", "message"), [(200, "expired on 20"), (-200, "is not valid before 20")]
)
def test_a_certificate_out_of_its_time_is_named(good: Path, days: int, message: str) -> None:
    """Clients would refuse it."""
    make_self_signed(("localhost",), good, now=time.time() - days * 86400)
    (problem,) = problems_in(good)
    assert problem.location == "callgate.toml:2: listeners[0].certificate"
    assert problem.message.startswith(message)


@pytest.mark.parametrize(("days", "warned"), [(75, False), (77, True)], ids=["15", "13"])
def test_a_certificate_that_ends_within_two_weeks_is_a_warning(
    good: Path, days: int, warned: bool
) -> None:
    """It is in use until then; the warning says until when."""
    make_self_signed(("localhost",), good, now=time.time() - days * 86400)
    found = problems_in(good)
    assert [problem.warning for problem in found] == [True] * warned
    assert all(problem.message.startswith("expires on 20") for problem in found)


@pytest.mark.parametrize(
    ("days", "message", "warning"),
    [
        (80, "expires on 20", True),
        (200, "expired on 20", False),
        (-2, "is not valid before", False),
    ],
)
def test_a_client_certificate_has_the_same_checks(
    good: Path, days: int, message: str, warning: bool
) -> None:
    """The certificate that Callgate shows to an upstream, whose peers would refuse it, too."""
    client = good / "client"
    client.mkdir()
    made = make_self_signed(("gate",), client, now=time.time() - days * 86400)
    client.chmod(0o755)
    text = SETTINGS.replace("http://127.0.0.1:1", "https://127.0.0.1:1").replace(
        "[policy]",
        'client_certificate = "client/tls.crt"\nclient_key = { file = "client/tls.key" }\n[policy]',
    )
    (good / "callgate.toml").write_text(text)
    [problem] = problems_in(good)
    assert problem.location.endswith("upstreams[0]")
    assert str(made.certificate) in problem.message
    assert message in problem.message
    assert problem.warning is warning


def test_each_listener_has_its_own_certificate(good: Path) -> None:
    """The number of the row is in the location."""
    row = 'port = 8444\ncertificate = "tls.key"\nkey = { file = "tls.key" }\n'
    settings = good / "callgate.toml"
    settings.write_text(f"{SETTINGS}[[listeners]]\n{row}")
    (problem,) = problems_in(good)
    assert problem.location == "callgate.toml:16: listeners[1].certificate"


@pytest.mark.parametrize("table", ["issuers", "upstreams"])
def test_a_ca_file_without_a_certificate_is_named(good: Path, table: str) -> None:
    """No server could be verified with it."""
    (good / "ca.pem").write_text("no certificate")
    text = SETTINGS.replace("http://127.0.0.1:1", "https://127.0.0.1:1")
    added = 'ca_file = "ca.pem"\n'
    if table == "upstreams":
        text = text.replace("[policy]", f"{added}[policy]")
    else:
        text = f"{SETTINGS}{IDP}{added}"
    (good / "callgate.toml").write_text(text)
    (problem,) = problems_in(good)
    assert f"{table}[0]" in problem.location
    assert "ca.pem has no usable CA certificate" in problem.message


@pytest.mark.parametrize(
    "content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA"}]}']
)
def test_a_key_set_file_without_a_usable_key_is_named(good: Path, content: str) -> None:
    """Callgate would start with it, and identify no caller."""
    (good / "keys.json").write_text(content)
    (good / "callgate.toml").write_text(f'{SETTINGS}{IDP}jwks_file = "keys.json"\n')
    (problem,) = problems_in(good)
    assert problem.location == "callgate.toml:18: issuers[0].jwks_file"


@pytest.mark.parametrize(
    ("name", "content"),
    [("hmac.key", b"ab\n"), ("hmac.key", b"no hex"), ("signing.key", b"no key")],
)
def test_a_damaged_key_of_the_journal_is_named(good: Path, name: str, content: bytes) -> None:
    """`serve` would not start with it."""
    (good / "audit" / name).write_bytes(content)
    (problem,) = problems_in(good)
    assert name in problem.message


def test_a_signing_key_of_another_kind_is_named(good: Path) -> None:
    """The key that the settings name is loaded, too."""
    (good / "callgate.toml").write_text(SETTINGS + 'signing_key = { file = "tls.key" }\n')
    (problem,) = problems_in(good)
    assert problem.location == "callgate.toml:14: audit.signing_key"


def test_a_journal_that_cannot_be_made_is_named(good: Path) -> None:
    """Its nearest existing parent must be a directory that Callgate can write to."""
    (good / "file").write_text("")
    text = SETTINGS.replace('directory = "audit"', 'directory = "file/audit"')
    (good / "callgate.toml").write_text(text)
    (problem,) = problems_in(good)
    assert problem.location == "callgate.toml:13: audit.directory"
    assert problem.message == f"{good / 'file'} cannot be written"
