import pytest

from proxy.edge.upstream.wait_queue import Waiter, WaitQueue
from proxy.errors import Unavailable
from proxy.model import Reason


def refused(queue: WaitQueue, now: float) -> None:
    """Hold that the queue takes no more calls."""
    with pytest.raises(Unavailable) as caught:
        queue.enqueue(now)
    error = caught.value
    assert (error.reason, error.retry_after, error.sent) == (Reason.OVERLOADED, 1, False)


async def test_a_full_queue_takes_no_more_calls() -> None:
    """It takes as many calls as its limit, and one more for each that leaves."""
    queue = WaitQueue(2, 5.0)
    first = queue.enqueue(0.0)
    queue.enqueue(0.0)
    refused(queue, 0.0)
    assert queue.remove(first)
    assert not queue.remove(first)
    queue.enqueue(0.0)
    refused(queue, 0.0)


async def test_a_queue_that_does_not_move_takes_no_more_calls() -> None:
    """The first call alone counts, and only once it has waited for longer than the timeout."""
    queue = WaitQueue(10, 5.0)
    queue.enqueue(100.0)
    queue.enqueue(105.0)
    refused(queue, 105.1)
    queue.grant(None)
    queue.enqueue(105.1)
    assert len(queue.waiters) == 2


async def test_calls_are_granted_in_order_and_those_that_left_are_skipped() -> None:
    """A call cancelled in the queue gets nothing; the next one gets its turn."""
    queue = WaitQueue(10, 5.0)
    waiters = [queue.enqueue(0.0) for _ in range(3)]
    waiters[0].granted.cancel()
    queue.prune()
    queue.grant(None)
    assert [waiter.granted.done() for waiter in waiters] == [True, True, False]
    assert waiters[1].granted.result() is None
    assert list(queue.waiters) == [waiters[2]]


async def test_at_the_end_every_call_fails() -> None:
    """Calls that wait get the reason; the queue is empty afterwards."""
    queue = WaitQueue(10, 5.0)
    waiters: list[Waiter] = [queue.enqueue(0.0) for _ in range(3)]
    waiters[1].granted.cancel()
    queue.fail_all(Reason.DRAINING)
    assert not queue.waiters
    for waiter in (waiters[0], waiters[2]):
        error = waiter.granted.exception()
        assert isinstance(error, Unavailable) and error.reason is Reason.DRAINING
