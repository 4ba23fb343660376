"""The time in which a certificate is valid (RFC 5280 section 4.1.2.5), and its end in sight.

A certificate of ours outside its time is refused, as a listener's or as a client's: its peers would
refuse it, and a start or a reload that takes it would be called a success. Only the first
certificate of a file is looked at, since the others may be there for old peers alone (an expired
cross-signature, for example).

Pure but for reading the file: takes the time as an argument.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from proxy.errors import ConfigError, Problem

# Seconds before its end from which a certificate is reported.
SOON_SECONDS = 14 * 86_400.0
RENEWAL_HINT = "Renew it. A running Callgate loads a listener's new one by itself."


@dataclass(frozen=True, slots=True)
class Validity:
    """The time of one certificate, in Unix seconds, both ends included."""

    begins: float
    ends: float

    def valid_at(self, now: float) -> bool:
        """Return whether the certificate is valid at `now`."""
        return self.begins <= now <= self.ends

    def ends_soon(self, now: float) -> bool:
        """Return whether it ends within `SOON_SECONDS`, or has ended."""
        return self.ends - now < SOON_SECONDS


def read_validity(certificate: Path) -> Validity:
    """Return the time of the first certificate in a PEM file.

    Raises:
        ConfigError: the file has no readable certificate.
        OSError: it cannot be read.

    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    except ValueError as error:
        hint = "Name a PEM certificate chain, the server's certificate first."
        raise ConfigError([Problem(str(certificate), "has no readable certificate", hint)]) from (
            error
        )
    return Validity(begins.timestamp(), ends.timestamp())


def refuse_invalid(certificate: Path, now: float) -> None:
    """Raise `ConfigError` unless the first certificate of the file is valid at `now`.

    Raises:
        ConfigError: with the time at which it ended, or will begin.
        OSError: the file cannot be read.

    """
    validity = read_validity(certificate)
    if now < validity.begins:
        message = f"is not valid before {utc(validity.begins)}"
        hint = "Check the clock, or wait. A running Callgate loads a listener's when it is valid."
    elif now > validity.ends:
        message = f"expired on {utc(validity.ends)}"
        hint = RENEWAL_HINT
    else:
        return
    raise ConfigError([Problem(str(certificate), message, hint)])


def utc(seconds: float) -> str:
    """Return a time as ``2026-12-01 09:30 UTC``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
