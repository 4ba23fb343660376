"""When a certificate is valid, read from its file."""

import time
from pathlib import Path

import pytest

from proxy.cli.demo.certificate import VALID, make_self_signed
from proxy.edge.validity import SOON_SECONDS, Validity, read_validity, refuse_invalid, utc
from proxy.errors import ConfigError

DAY = 86_400.0


def test_the_time_of_the_first_certificate_is_read(tmp_path: Path) -> None:
    """Others in the chain do not matter: a cross-signature may have expired long ago."""
    now = float(int(time.time()))
    (tmp_path / "old").mkdir()
    old = make_self_signed(["localhost"], tmp_path / "old", now=now - 400 * DAY)
    made = make_self_signed(["localhost"], tmp_path, now=now)
    made.certificate.write_bytes(made.certificate.read_bytes() + old.certificate.read_bytes())
    validity = read_validity(made.certificate)
    assert validity.begins == now - 3600
    assert validity.ends == validity.begins + VALID.total_seconds()


def test_both_ends_belong_to_the_time() -> None:
    """RFC 5280 section 4.1.2.5: inclusive."""
    validity = Validity(100.0, 200.0)
    assert [validity.valid_at(now) for now in (99.9, 100.0, 200.0, 200.1)] == [
        False,
        True,
        True,
        False,
    ]


def test_soon_is_two_weeks_and_includes_what_has_ended() -> None:
    """A certificate that has ended is no less urgent than one that is about to."""
    validity = Validity(0.0, 100 * DAY)
    assert not validity.ends_soon(100 * DAY - SOON_SECONDS)
    assert validity.ends_soon(100 * DAY - SOON_SECONDS + 1)
    assert validity.ends_soon(101 * DAY)


@pytest.mark.parametrize(
    ("days", "message"), [(91, "expired on 20"), (-2, "is not valid before 20"), (80, "")]
)
def test_a_certificate_outside_its_time_is_refused_with_that_time(
    days: int, message: str, tmp_path: Path
) -> None:
    """The reason says when, in UTC."""
    now = time.time()
    made = make_self_signed(["localhost"], tmp_path, now=now - days * DAY)
    if not message:
        refuse_invalid(made.certificate, now)
        return
    with pytest.raises(ConfigError) as caught:
        refuse_invalid(made.certificate, now)
    [problem] = caught.value.problems
    assert problem.location == str(made.certificate)
    assert problem.message.startswith(message)
    assert problem.message.endswith(" UTC")


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_an_unreadable_certificate_is_named(content: bytes, tmp_path: Path) -> None:
    """What has no time cannot be inside it."""
    (tmp_path / "tls.crt").write_bytes(content)
    with pytest.raises(ConfigError, match="no readable certificate"):
        read_validity(tmp_path / "tls.crt")


def test_times_are_written_in_utc() -> None:
    """To the minute."""
    assert utc(0.0) == "1970-01-01 00:00 UTC"
