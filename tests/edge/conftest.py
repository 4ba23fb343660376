"""For the edge's tests: deadlines are looked at often, so that a test of one does not take half a
second.
"""

import pytest


@pytest.fixture(autouse=True)
def _quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.edge.server.server._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr("proxy.edge.upstream.pool._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr("proxy.edge.server.connection._LINGER_SECONDS", 5.0)
    monkeypatch.setattr("proxy.edge.server.connection._CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("proxy.edge.server.server.REST_SECONDS", 0.2)
