"""Reads are shared where they may be, and no response is older than its caller's last write."""

import asyncio
import contextlib
import gc
import weakref
from dataclasses import replace

import pytest

from proxy.edge.upstream.coalescing import CoalescingUpstream
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, Stream, UpstreamRequest, UpstreamResponse

RECEIPT = Receipt("id", 1, 0)
READ = UpstreamRequest("POST", b"/api/task_list", b"form", b"data={}", kind="read", cacheable=True)
UNCACHEABLE = UpstreamRequest(
    "POST", b"/api/get_task_status_message", b"form", b"data={}", kind="read"
)
WRITE = UpstreamRequest("POST", b"/api/pause", b"form", b"data={}")
HEARTBEAT = UpstreamRequest("POST", b"/api/ping", b"form", b"data={}", kind="heartbeat")


class ManualUpstream:
    """An upstream that answers on demand and records what it received."""

    def __init__(self) -> None:
        self.pending: list[tuple[UpstreamRequest, asyncio.Future[UpstreamResponse]]] = []
        self.sent: list[bytes] = []

    async def forward(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        future: asyncio.Future[UpstreamResponse] = asyncio.get_running_loop().create_future()
        self.pending.append((request, future))
        self.sent.append(request.path)
        return await future

    def answer(self, body: bytes = b"x", number: int = 0) -> None:
        self.pending.pop(number)[1].set_result(UpstreamResponse(200, {}, body))


class Clock:
    """A clock that a test sets."""

    time = 100.0

    def __call__(self) -> float:
        return self.time


class Endless:
    """A stream that sends nothing."""

    closed = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def made() -> tuple[CoalescingUpstream, ManualUpstream, Clock]:
    """A coalescing upstream over a manual one."""
    upstream, clock = ManualUpstream(), Clock()
    return CoalescingUpstream(upstream, max_reads=2, cache_ttl=1.0, now=clock), upstream, clock


async def test_equal_reads_share_one_call(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """Sixteen equal reads cost the upstream one call, and all get its response."""
    shared, upstream, _ = made
    callers = [asyncio.ensure_future(shared.forward(RECEIPT, READ)) for _ in range(16)]
    await turn()
    assert len(upstream.sent) == 1
    upstream.answer(b"tasks")
    assert {(await caller).body for caller in callers} == {b"tasks"}
    assert shared.stats().hits == 15


async def test_a_read_that_is_not_shared_has_a_call_of_its_own(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A read without a cache still got the response to another's call, while that was on its way;
    one that is not shared never does. It waits for its turn all the same.
    """
    shared, upstream, _ = made
    for request, calls in ((UNCACHEABLE, 1), (replace(UNCACHEABLE, shared=False), 4)):
        upstream.sent.clear()
        callers = [asyncio.ensure_future(shared.forward(RECEIPT, request)) for _ in range(4)]
        for number in range(calls):
            await turn()
            assert len(upstream.pending) == min(2, calls - number), "the limit on reads"
            upstream.answer(b"%d" % number)
        bodies = [(await caller).body for caller in callers]
        assert (len(upstream.sent), len(set(bodies))) == (calls, calls)


async def test_an_answer_that_others_share_is_not_for_a_read_that_is_not_shared(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """Equal bytes make no difference: neither a cached response nor a flight is joined."""
    shared, upstream, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    alone = asyncio.ensure_future(shared.forward(RECEIPT, replace(READ, shared=False)))
    await turn()
    upstream.answer(b"shared")
    upstream.answer(b"alone")
    assert ((await first).body, (await alone).body) == (b"shared", b"alone")
    alone = asyncio.ensure_future(shared.forward(RECEIPT, replace(READ, shared=False)))
    await turn()
    upstream.answer(b"again")
    assert (await alone).body == b"again"


async def test_different_reads_are_not_mixed(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """The key is the complete encoded request: another body, path or encoding is another call."""
    shared, upstream, _ = made
    other = [
        UpstreamRequest(
            "POST", b"/api/task_list", b"form", b'data={"a":1}', kind="read", cacheable=True
        ),
        UpstreamRequest(
            "POST",
            b"/api/task_list",
            b"form",
            b"data={}",
            kind="read",
            cacheable=True,
            accept_gzip=True,
        ),
    ]
    callers = [
        asyncio.ensure_future(shared.forward(RECEIPT, request)) for request in (READ, *other)
    ]
    await turn()
    assert len(upstream.pending) == 2  # the limit on reads
    upstream.answer(b"1")
    await turn()
    upstream.answer(b"2")
    upstream.answer(b"3")
    assert [(await caller).body for caller in callers] == [b"1", b"2", b"3"]


async def test_a_response_is_cached_for_its_time_to_live(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """Within a second an equal read gets the cached response, and a new one afterwards. A read that
    is not cacheable always gets a new one.
    """
    shared, upstream, clock = made
    for request, again in ((READ, False), (UNCACHEABLE, True)):
        first = asyncio.ensure_future(shared.forward(RECEIPT, request))
        await turn()
        upstream.answer(b"old")
        assert (await first).body == b"old"
        second = asyncio.ensure_future(shared.forward(RECEIPT, request))
        await turn()
        assert bool(upstream.pending) is again
        if again:
            upstream.answer(b"old")
        assert (await second).body == b"old"
        clock.time += 1.0
        third = asyncio.ensure_future(shared.forward(RECEIPT, request))
        await turn()
        upstream.answer(b"new")
        assert (await third).body == b"new"


@pytest.mark.parametrize("ended", [False, True])
async def test_a_write_clears_the_cache(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock], ended: bool
) -> None:
    """After a write was sent, and again after it was answered, no older response is used."""
    shared, upstream, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    upstream.answer(b"before")
    await first
    act = asyncio.ensure_future(shared.forward(RECEIPT, WRITE))
    await turn()
    if ended:
        upstream.answer()
        await act
    second = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    upstream.answer(b"after", -1)
    assert (await second).body == b"after"
    if not ended:
        upstream.answer()
        await act


async def test_no_read_joins_a_flight_older_than_a_write(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A read after a write gets a response requested after it, even while an older flight runs."""
    shared, upstream, _ = made
    early = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    act = asyncio.ensure_future(shared.forward(RECEIPT, WRITE))
    await turn()
    upstream.answer(b"done", 1)
    await act
    late = [asyncio.ensure_future(shared.forward(RECEIPT, READ)) for _ in range(3)]
    await turn()
    assert len(upstream.pending) == 2
    upstream.answer(b"stale", 0)
    upstream.answer(b"current", 0)
    assert (await early).body == b"stale"
    assert {(await caller).body for caller in late} == {b"current"}
    again = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    assert not upstream.pending
    assert (await again).body == b"current"


async def test_heartbeats_pass_and_leave_the_cache_alone(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A ping neither waits for a read nor clears the cache: fifty workers ping every second."""
    shared, upstream, _ = made
    reads = [
        asyncio.ensure_future(
            shared.forward(
                RECEIPT, UpstreamRequest("POST", path, b"form", b"", kind="read", cacheable=True)
            )
        )
        for path in (b"/1", b"/2", b"/3")
    ]
    await turn()
    assert upstream.sent == [b"/1", b"/2"]
    ping = asyncio.ensure_future(shared.forward(RECEIPT, HEARTBEAT))
    await turn()
    assert upstream.sent == [b"/1", b"/2", b"/api/ping"]
    upstream.answer(b"pong", 2)
    assert (await ping).body == b"pong"
    upstream.answer()
    upstream.answer()
    await turn()
    assert (
        await shared.forward(
            RECEIPT, UpstreamRequest("POST", b"/1", b"form", b"", kind="read", cacheable=True)
        )
    ).body == b"x"
    upstream.answer()
    assert [(await read).body for read in reads] == [b"x"] * 3


def read_by(name: str, path: str) -> UpstreamRequest:
    """A read by the principal `name`."""
    return UpstreamRequest(
        "POST", path.encode(), b"form", b"data={}", kind="read", fairness_key=name
    )


async def test_a_burst_of_reads_delays_other_principals_by_one_read(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """Thirty reads of one principal are sent one by one; the single read of another one is next."""
    shared, upstream, _ = made
    crowd = [
        asyncio.ensure_future(shared.forward(RECEIPT, read_by("loud", f"/{number}")))
        for number in range(30)
    ]
    await turn()
    quiet = asyncio.ensure_future(shared.forward(RECEIPT, read_by("quiet", "/is_paused")))
    await turn()
    upstream.answer()
    await turn()
    upstream.answer()
    await turn()
    assert upstream.sent == [b"/0", b"/1", b"/2", b"/is_paused"]
    while not quiet.done():
        upstream.answer()
        await turn()
    assert [call.done() for call in crowd].count(True) <= 4
    while upstream.pending:
        upstream.answer()
        await turn()
    assert [(await call).body for call in [*crowd, quiet]] == [b"x"] * 31
    assert upstream.sent[4:] == [b"/%d" % number for number in range(3, 30)]


async def test_joining_a_waiting_flight_brings_it_forward(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A flight that another principal queued behind many of its own is served in the turn of the
    principal that joins it. It is still one call.
    """
    shared, upstream, _ = made
    crowd = [
        asyncio.ensure_future(shared.forward(RECEIPT, read_by("loud", f"/{number}")))
        for number in range(30)
    ]
    await turn()
    quiet = [
        asyncio.ensure_future(shared.forward(RECEIPT, read_by("quiet", "/29"))) for _ in range(2)
    ]
    await turn()
    upstream.answer()
    upstream.answer()
    await turn()
    assert upstream.sent == [b"/0", b"/1", b"/2", b"/29"]
    while upstream.pending:
        upstream.answer()
        await turn()
    assert all(call.done() for call in crowd + quiet)
    assert len(upstream.sent) == 30


async def test_a_failure_is_shared_and_not_cached(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """When the shared call fails, all its callers get the reason, and the next read tries anew."""
    shared, upstream, _ = made
    callers = [asyncio.ensure_future(shared.forward(RECEIPT, READ)) for _ in range(3)]
    await turn()
    upstream.pending.pop()[1].set_exception(Unavailable(Reason.UPSTREAM_CLOSED))
    for caller in callers:
        with pytest.raises(Unavailable):
            await caller
    again = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    upstream.answer(b"good")
    assert (await again).body == b"good"


async def test_a_long_response_belongs_to_one_caller(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A stream can be read once: the first caller has it, the others send calls of their own."""
    shared, upstream, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    second = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    upstream.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=Endless()))
    assert (await first).stream is not None
    await turn()
    upstream.answer(b"own")
    assert (await second).body == b"own"


async def test_a_caller_that_leaves_does_not_end_the_flight(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """When the first caller leaves, the call goes on for those that share it."""
    shared, upstream, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    second = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    first.cancel()
    await turn()
    upstream.answer(b"still")
    assert (await second).body == b"still"


async def test_a_stream_without_a_caller_is_closed(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """All callers left before it came: left open, it would hold its connection for ever."""
    shared, upstream, _ = made
    callers = [asyncio.ensure_future(shared.forward(RECEIPT, READ)) for _ in range(3)]
    await turn()
    for caller in callers:
        caller.cancel()
    await turn()
    stream = Endless()
    upstream.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=stream))
    await turn()
    assert stream.closed


async def test_a_stream_that_comes_in_the_moment_of_leaving_is_closed(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """The caller that was given it is cancelled before it could take it."""
    shared, upstream, _ = made
    caller = asyncio.ensure_future(shared.forward(RECEIPT, READ))
    await turn()
    stream = Endless()
    upstream.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=stream))
    await asyncio.sleep(0)  # the flight has its response, and its caller has not run since
    assert not caller.done()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert stream.closed


async def test_when_the_first_caller_leaves_the_next_has_the_stream(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A stream goes to the first caller that still waits; no second call is made for it."""
    shared, upstream, _ = made
    first, second = (asyncio.ensure_future(shared.forward(RECEIPT, READ)) for _ in range(2))
    await turn()
    first.cancel()
    stream = Endless()
    upstream.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=stream))
    answer = await second
    assert (answer.stream == stream, len(upstream.sent), stream.closed) == (True, 1, False)


def read(number: int, size: int = 0) -> UpstreamRequest:
    """A read unlike the others."""
    return UpstreamRequest(
        "POST",
        b"/api/task_search",
        b"form",
        b"data=%d " % number + b" " * size,
        kind="read",
        cacheable=True,
    )


async def cached(
    shared: CoalescingUpstream,
    upstream: ManualUpstream,
    request: UpstreamRequest,
    body: bytes = b"x",
) -> bool:
    """Send a read; return whether its response was cached. If not, the upstream answers `body`."""
    caller = asyncio.ensure_future(shared.forward(RECEIPT, request))
    await turn()
    sent = bool(upstream.pending)
    if sent:
        upstream.answer(body)
    await caller
    return not sent


async def test_the_cache_is_bounded_and_evicts_the_oldest_first(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """It holds eight megabytes of requests and responses together. What has expired is evicted as
    soon as another response is cached.
    """
    shared, upstream, clock = made
    for number in range(20):
        assert not await cached(shared, upstream, read(number, 200_000), b"y" * 800_000)
        assert shared.stats().cached_bytes <= 8_388_608
    assert [
        await cached(shared, upstream, read(number, 200_000)) for number in (19, 12, 11, 0)
    ] == [
        True,
        True,
        False,
        False,
    ]
    assert not await cached(shared, upstream, read(99, 9_000_000))  # larger than all of it
    assert not await cached(shared, upstream, read(99, 9_000_000))
    clock.time += 1.0
    assert not await cached(shared, upstream, read(100))
    assert shared.stats().cached_responses == 1
    assert shared.stats().cached_bytes < 2000
    for _ in range(5):
        clock.time += 0.5
        await cached(shared, upstream, read(100))
    assert shared.stats().cached_responses == 1
    assert shared.stats().cached_bytes < 2000


async def test_a_time_to_live_of_zero_caches_nothing() -> None:
    """Every read that shares no flight is sent: another process may have written."""
    upstream = ManualUpstream()
    shared = CoalescingUpstream(upstream, cache_ttl=0.0, now=Clock())
    assert [await cached(shared, upstream, READ) for _ in range(2)] == [False, False]
    assert not shared.stats().cached_responses


async def test_a_caller_may_buffer_more_than_is_shared(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """A page is read completely to be rewritten, up to more bytes than are shared."""
    shared, upstream, _ = made
    page = replace(READ, max_buffered=4 * 1024 * 1024)
    asked = asyncio.ensure_future(shared.forward(RECEIPT, page))
    await turn()
    assert upstream.pending[0][0].max_buffered == page.max_buffered
    upstream.answer()
    await asked


async def test_the_time_to_live_can_be_changed_while_serving(
    made: tuple[CoalescingUpstream, ManualUpstream, Clock],
) -> None:
    """Nothing is cached while another process may write, and responses are again afterwards."""
    shared, upstream, _ = made

    async def sent() -> bool:
        before = len(upstream.sent)
        asked = asyncio.ensure_future(shared.forward(RECEIPT, READ))
        await turn()
        if len(upstream.sent) > before:
            upstream.answer()
        await asked
        return len(upstream.sent) > before

    assert [await sent(), await sent()] == [True, False]
    shared.set_cache_ttl(0.0)
    assert [await sent(), await sent()] == [True, True]
    shared.set_cache_ttl(1.0)
    assert [await sent(), await sent()] == [True, False]


async def test_a_failure_leaves_no_cycle() -> None:
    """Errors hold frames, and frames hold what was sent: no cycle keeps them in memory."""

    class Held(UpstreamRequest):
        """A request that weak references can watch."""

    class DeadUpstream:
        """A upstream to nowhere."""

        async def forward(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
            raise Unavailable(Reason.UPSTREAM_CLOSED)

    shared = CoalescingUpstream(DeadUpstream(), now=Clock())
    gc.disable()
    try:
        request = Held(READ.http_method, READ.path, READ.content_type, READ.body, kind="read")
        held = weakref.ref(request)
        with contextlib.suppress(Unavailable):
            await shared.forward(RECEIPT, request)
        del request
        await turn()
        assert held() is None
    finally:
        gc.enable()
