"""The certificates of a serving process: loaded again when they change, reported before they end.

A listener's certificate follows its files (`proxy.edge.tls`), the one that Callgate shows to an
upstream is read at the start. Both are reported once a day from 14 days before they end, as a
warning, and as an error once they have ended.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from proxy.edge.tls import ReloadingCertificate
from proxy.edge.validity import Validity, utc
from proxy.errors import ConfigError

# Seconds between two reports of one certificate.
REPORT_SECONDS = 86_400.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Certificate(Protocol):
    """A certificate in use."""

    @property
    def validity(self) -> Validity:
        """The time of the one that is in use now."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate that Callgate shows to an upstream, as it was read at the start."""

    validity: Validity


class CertificateWatch:
    """All certificates of a process, by the settings that name them."""

    def __init__(
        self,
        certificates: Mapping[str, Certificate],
        *,
        reports: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch `certificates`, such as ``listeners[0].certificate``.

        `reports` is False for a process whose sibling reports the same certificates. `clock` gives
        Unix seconds.
        """
        self._certificates = dict(certificates)
        self._reports = reports
        self._clock = clock
        self._reported: dict[str, float] = {}

    def check(self) -> None:
        """Load what has changed, and report what ends soon. Called about once a second."""
        now = self._clock()
        for name, certificate in self._certificates.items():
            if isinstance(certificate, ReloadingCertificate):
                _reload_if_changed(name, certificate)
            if self._reports:
                self._report_end(name, certificate.validity, now)

    def seconds_left(self) -> dict[str, float]:
        """Return the seconds until each certificate ends, below 0 where it has, by its name."""
        now = self._clock()
        return {name: each.validity.ends - now for name, each in self._certificates.items()}

    def _report_end(self, name: str, validity: Validity, now: float) -> None:
        if not validity.ends_soon(now):
            self._reported.pop(name, None)
            return
        last = self._reported.get(name)
        # A clock that was set back must not silence the report.
        if last is not None and last <= now < last + REPORT_SECONDS:
            return
        self._reported[name] = now
        if now <= validity.ends:
            days = int((validity.ends - now) // 86_400)
            _log.warning(
                "certificate ends soon", certificate=name, days=days, on=utc(validity.ends)
            )
        else:
            _log.error("certificate has expired", certificate=name, on=utc(validity.ends))


def _reload_if_changed(name: str, certificate: ReloadingCertificate) -> None:
    try:
        if certificate.reload_if_changed():
            _log.info(
                "certificate reloaded", certificate=name, until=utc(certificate.validity.ends)
            )
    except ConfigError as error:
        for problem in error.problems:
            _log.error(
                "certificate not reloaded",
                location=problem.location,
                message=problem.message,
                hint=problem.hint,
            )
