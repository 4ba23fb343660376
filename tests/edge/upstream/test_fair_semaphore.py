"""A semaphore that principals share fairly, by its events and their order: nothing here waits for a
clock.
"""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.upstream.fair_semaphore import FairSemaphore, SemaphoreStats
from proxy.errors import Unavailable
from proxy.model import Reason


def refusal() -> Unavailable:
    """The error of a request that may not wait, or not any longer."""
    return Unavailable(Reason.OVERLOADED, retry_after=1)


def semaphore(
    permits: int = 2, *, per_principal: int = 2, max_waiters: int = 100, timeout: float = 60.0
) -> FairSemaphore:
    """A semaphore."""
    return FairSemaphore(
        permits,
        per_principal=per_principal,
        max_waiters=max_waiters,
        timeout=timeout,
        refusal=refusal,
    )


def unused(permits: int) -> SemaphoreStats:
    """The state of a semaphore that holds nothing of its principals."""
    return SemaphoreStats(permits, 0, {}, {})


async def test_a_free_permit_is_granted_at_once_and_again_after_its_release() -> None:
    """Nothing of a holder stays after the release."""
    permits = semaphore(1, per_principal=1)
    for principal in ("a", "b", "a"):
        assert await permits.acquire(permits.request(principal)) == principal
        permits.release(principal)
    assert permits.stats() == unused(1)


async def test_principals_are_served_round_robin() -> None:
    """Each queue is first in, first out; between queues each principal is served once a round."""
    permits = semaphore(1)
    assert permits.request("x").done
    order: list[str] = []

    async def hold(name: str) -> None:
        principal = await permits.acquire(permits.request(name[0]))
        order.append(name)
        permits.release(principal)

    calls = [asyncio.ensure_future(hold(name)) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    await asyncio.sleep(0)
    permits.release("x")
    await asyncio.gather(*calls)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert permits.stats() == unused(1)


async def test_one_principal_waits_while_permits_are_free_for_others() -> None:
    """Beyond its share it gets a permit only when it releases one of its own."""
    permits = semaphore(3, per_principal=2)
    waiters = [permits.request("a") for _ in range(3)]
    assert [waiter.done for waiter in waiters] == [True, True, False]
    assert permits.request("b").done
    permits.release("b")
    assert not waiters[2].done
    permits.release("a")
    assert waiters[2].holder == "a"


async def test_the_room_to_wait_is_bounded_in_total_and_per_principal() -> None:
    """One principal fills half of it, two all of it; a refused request leaves no trace."""
    permits = semaphore(1, max_waiters=4)
    permits.request("x")
    for principal, fits in (("a", 2), ("b", 2), ("c", 0)):
        for _ in range(fits):
            assert not permits.request(principal).done
        with pytest.raises(Unavailable):
            permits.request(principal)
    assert permits.stats().waiting == 4
    with pytest.raises(Unavailable):
        semaphore(0, max_waiters=0).request("a")


async def test_a_request_that_waits_too_long_fails_and_leaves_every_queue() -> None:
    """It leaves the queues of the principals that share it too."""
    permits = semaphore(1, timeout=0.0)
    permits.request("x")
    waiter = permits.request("a")
    for principal in ("b", "b", "a"):
        permits.share(waiter, principal)
    assert permits.stats().queued == {"a": 1, "b": 1}
    with pytest.raises(Unavailable) as caught:
        await permits.acquire(waiter)
    assert caught.value.reason is Reason.OVERLOADED
    assert permits.stats() == SemaphoreStats(0, 0, {"x": 1}, {})


async def test_a_shared_request_is_served_with_the_first_of_its_principals_and_once() -> None:
    """It waits in the queue of each, and the one served first holds the permit."""
    permits = semaphore(1)
    permits.request("x")
    permits.request("a")
    shared = permits.request("a")
    permits.share(shared, "b")
    last = permits.request("b")
    permits.release("x")
    permits.release("a")
    assert shared.holder == "b"
    permits.share(shared, "c")  # too late: it was granted
    assert permits.stats().queued == {"b": 1}
    permits.release("b")
    assert last.holder == "b"
    assert permits.stats() == SemaphoreStats(0, 0, {"b": 1}, {})


@pytest.mark.parametrize("granted", [False, True], ids=["before", "in the same moment"])
async def test_a_caller_that_leaves_passes_its_permit_on(granted: bool) -> None:
    """A caller cancelled before the permit is granted, or just as it is, leaves it to the next."""
    permits = semaphore(1)
    permits.request("x")
    leaving = asyncio.ensure_future(permits.acquire(permits.request("a")))
    staying = asyncio.ensure_future(permits.acquire(permits.request("b")))
    await asyncio.sleep(0)
    if granted:
        permits.release("x")
        leaving.cancel()
    else:
        leaving.cancel()
        permits.release("x")
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying == "b"
    assert permits.stats() == SemaphoreStats(0, 0, {"b": 1}, {})


async def test_a_free_permit_serves_whoever_shares_a_request() -> None:
    """The third of a principal waits at its limit; for another principal there is a permit."""
    permits = semaphore(3, per_principal=2, max_waiters=6)
    waiters = [permits.request("a") for _ in range(3)]
    assert permits.stats().free == 1
    permits.share(waiters[-1], "b")
    assert await permits.acquire(waiters[-1]) == "b"
    assert permits.stats() == SemaphoreStats(0, 0, {"a": 2, "b": 1}, {})


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["request", "share", "leave", "release", "run"]),
        ),
        max_size=60,
    )
)
def test_permits_are_neither_lost_nor_doubled(steps: list[tuple[str, str]]) -> None:
    """In any order of events each permit is held or free, no principal exceeds its share, and no
    request waits for a permit that is free for it.
    """

    async def main() -> None:
        permits = semaphore(3, per_principal=2, max_waiters=6)
        calls: list[asyncio.Task[str]] = []
        waiters = []
        held: list[str] = []
        for principal, step in steps:
            if step == "request":
                with contextlib.suppress(Unavailable):
                    waiters.append(permits.request(principal))
                    calls.append(asyncio.ensure_future(permits.acquire(waiters[-1])))
                    await asyncio.sleep(0)  # it waits: each request is acquired
            elif step == "share" and waiters:
                permits.share(waiters[-1], principal)
            elif step == "leave" and calls:
                calls[-1].cancel()
            elif step == "release" and principal in held:
                held.remove(principal)
                permits.release(principal)
            elif step == "run":
                for _ in range(4):
                    await asyncio.sleep(0)
                for call in [call for call in calls if call.done()]:
                    calls.remove(call)
                    if not call.cancelled():
                        held.append(call.result())
                stats = permits.stats()
                assert stats.free == 3 - len(held)
                assert stats.held == {name: held.count(name) for name in held}
                waiting = [waiter for waiter in waiters if waiter.principals]
                assert stats.waiting == len(calls) == len(waiting)
                assert stats.queued == {
                    name: count
                    for name in "abc"
                    if (count := sum(name in waiter.principals for waiter in waiting))
                }
                if stats.free:
                    assert all(held.count(name) == 2 for name in stats.queued)
            stats = permits.stats()
            assert stats.free >= 0
            assert all(count <= 2 for count in stats.held.values())
            assert len(held) <= 3
        for call in calls:
            call.cancel()
        for _ in range(4):
            await asyncio.sleep(0)

    asyncio.run(main())
