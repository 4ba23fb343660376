"""For the edge's tests: deadlines are looked at often, so that a test of one does not take half a
second; logging is put back.
"""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.edge.server.server._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr("proxy.edge.upstream.pool._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr("proxy.edge.server.connection._LINGER_SECONDS", 5.0)
    monkeypatch.setattr("proxy.edge.server.connection._CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("proxy.edge.server.server.REST_SECONDS", 0.2)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Put the process-wide set-up of logging back after each test."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)
