"""The circuit breaker, with the time as an argument."""

import pytest

from proxy.edge.upstream.circuit_breaker import FAILURES, INITIAL_PAUSE, MAX_PAUSE, CircuitBreaker
from proxy.errors import Unavailable
from proxy.model import Reason


def failed(breaker: CircuitBreaker, times: int, now: float) -> None:
    """Let `times` connections be tried, and fail."""
    for _ in range(times):
        breaker.before_connect(now)
        breaker.failed(now)


def test_only_failures_in_a_row_open_the_circuit() -> None:
    """A success starts the count anew."""
    breaker = CircuitBreaker()
    for _ in range(3):
        failed(breaker, FAILURES - 1, 0.0)
        breaker.succeeded()
    assert not breaker.open


def test_an_open_circuit_fails_at_once_and_says_when_to_retry() -> None:
    """While it is open no connection is tried, and each call gets the time to wait."""
    breaker = CircuitBreaker()
    failed(breaker, FAILURES, 100.0)
    with pytest.raises(Unavailable) as caught:
        breaker.before_connect(100.0)
    assert (caught.value.reason, caught.value.retry_after, caught.value.sent) == (
        Reason.UPSTREAM_UNREACHABLE,
        1,
        False,
    )


def test_one_probe_decides() -> None:
    """After the pause one connection is tried while the other calls fail. Its success closes the
    circuit for all.
    """
    breaker = CircuitBreaker()
    failed(breaker, FAILURES, 0.0)
    breaker.before_connect(INITIAL_PAUSE)
    with pytest.raises(Unavailable):
        breaker.before_connect(INITIAL_PAUSE)
    breaker.succeeded()
    breaker.before_connect(INITIAL_PAUSE)
    assert not breaker.open


def test_the_pause_doubles_up_to_its_maximum() -> None:
    """A failed probe opens the circuit for twice as long, up to the maximum."""
    breaker = CircuitBreaker()
    failed(breaker, FAILURES, 0.0)
    now, pause = 0.0, INITIAL_PAUSE
    for _ in range(10):
        now += pause
        breaker.before_connect(now)
        breaker.failed(now)
        pause = min(2 * pause, MAX_PAUSE)
        with pytest.raises(Unavailable):
            breaker.before_connect(now + pause - 0.01)
    assert pause == MAX_PAUSE


def test_an_inconclusive_probe_does_not_block_the_next() -> None:
    """A probe that was cancelled decided nothing; the next connection is the probe."""
    breaker = CircuitBreaker()
    failed(breaker, FAILURES, 0.0)
    breaker.before_connect(INITIAL_PAUSE)
    breaker.inconclusive()
    breaker.before_connect(INITIAL_PAUSE)
