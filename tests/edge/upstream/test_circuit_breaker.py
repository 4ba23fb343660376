"""The circuit breaker, with the time given."""

import pytest

from proxy.edge.upstream.circuit_breaker import FAILURES, INITIAL_PAUSE, MAX_PAUSE, CircuitBreaker
from proxy.errors import Unavailable
from proxy.model import Reason


def failed(breaker: CircuitBreaker, times: int, now: float) -> None:
    """Try and fail."""
    for _ in range(times):
        breaker.before_connect(now)
        breaker.failed(now)


def test_few_failures_do_not_open_it() -> None:
    """A success in between starts the count anew: only failures in a row say that the upstream is
    down.
    """
    breaker = CircuitBreaker()
    for _ in range(3):
        failed(breaker, FAILURES - 1, 0.0)
        breaker.succeeded()
    assert not breaker.open


def test_open_circuit_refuses_at_once_and_says_when_to_come_back() -> None:
    """While it is open nobody tries, and everybody is told how long it will be."""
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
    """After the pause one caller tries, the others wait for what it finds; a success closes the
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


def test_pause_doubles_up_to_a_bound() -> None:
    """A probe that fails opens the circuit for twice as long, and never for longer than the bound."""
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


def test_probe_whose_caller_leaves_does_not_block_the_next() -> None:
    """A probe that was cancelled found nothing out; the next caller probes."""
    breaker = CircuitBreaker()
    failed(breaker, FAILURES, 0.0)
    breaker.before_connect(INITIAL_PAUSE)
    breaker.inconclusive()
    breaker.before_connect(INITIAL_PAUSE)
