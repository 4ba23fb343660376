"""Shared views: what may be shared is, and nobody is given an answer older than their own last act."""

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
VIEW = UpstreamRequest("POST", b"/api/task_list", b"form", b"data={}", kind="read", cacheable=True)
FRESH = UpstreamRequest("POST", b"/api/get_task_status_message", b"form", b"data={}", kind="read")
ACT = UpstreamRequest("POST", b"/api/pause", b"form", b"data={}")
PING = UpstreamRequest("POST", b"/api/ping", b"form", b"data={}", kind="heartbeat")


class ManualLeg:
    """A leg that answers when it is told to, and counts what is with it."""

    def __init__(self) -> None:
        self.pending: list[tuple[UpstreamRequest, asyncio.Future[UpstreamResponse]]] = []
        self.sent: list[bytes] = []

    async def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> UpstreamResponse:
        future: asyncio.Future[UpstreamResponse] = asyncio.get_running_loop().create_future()
        self.pending.append((outbound, future))
        self.sent.append(outbound.path)
        return await future

    def answer(self, body: bytes = b"x", number: int = 0) -> None:
        self.pending.pop(number)[1].set_result(UpstreamResponse(200, {}, body))


class Clock:
    """A clock that is set."""

    time = 100.0

    def __call__(self) -> float:
        return self.time


class Endless:
    """A stream that says nothing."""

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
def made() -> tuple[CoalescingUpstream, ManualLeg, Clock]:
    """A shared leg over a manual one."""
    leg, clock = ManualLeg(), Clock()
    return CoalescingUpstream(leg, views=2, seconds=1.0, now=clock), leg, clock


async def test_identical_views_share_one_call(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """Sixteen callers of the same view cost the upstream one call, and all get its answer."""
    shared, leg, _ = made
    callers = [asyncio.ensure_future(shared.forward(RECEIPT, VIEW)) for _ in range(16)]
    await turn()
    assert len(leg.sent) == 1
    leg.answer(b"tasks")
    assert {(await caller).body for caller in callers} == {b"tasks"}
    assert shared.hits == 15


async def test_different_views_are_not_mixed(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """The key is the whole encoded call: another body, path or encoding is another call."""
    shared, leg, _ = made
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
        asyncio.ensure_future(shared.forward(RECEIPT, outbound)) for outbound in (VIEW, *other)
    ]
    await turn()
    assert len(leg.pending) == 2  # the bound on views
    leg.answer(b"1")
    await turn()
    leg.answer(b"2")
    leg.answer(b"3")
    assert [(await caller).body for caller in callers] == [b"1", b"2", b"3"]


async def test_answer_is_kept_for_a_moment_and_no_longer(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """Within a second the same view is answered from memory, then asked for again; a fresh method
    always is.
    """
    shared, leg, clock = made
    for outbound, again in ((VIEW, False), (FRESH, True)):
        first = asyncio.ensure_future(shared.forward(RECEIPT, outbound))
        await turn()
        leg.answer(b"old")
        assert (await first).body == b"old"
        second = asyncio.ensure_future(shared.forward(RECEIPT, outbound))
        await turn()
        assert bool(leg.pending) is again
        if again:
            leg.answer(b"old")
        assert (await second).body == b"old"
        clock.time += 1.0
        third = asyncio.ensure_future(shared.forward(RECEIPT, outbound))
        await turn()
        leg.answer(b"new")
        assert (await third).body == b"new"


@pytest.mark.parametrize("ended", [False, True])
async def test_act_empties_the_cache(
    made: tuple[CoalescingUpstream, ManualLeg, Clock], ended: bool
) -> None:
    """After a call that acts was sent, and again after it was answered, nothing older is given out."""
    shared, leg, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    leg.answer(b"before")
    await first
    act = asyncio.ensure_future(shared.forward(RECEIPT, ACT))
    await turn()
    if ended:
        leg.answer()
        await act
    second = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    leg.answer(b"after", -1)
    assert (await second).body == b"after"
    if not ended:
        leg.answer()
        await act


async def test_nobody_joins_a_flight_older_than_an_act(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """Who asks after an act gets an answer that was asked for after it, though an older call is
    still under way.
    """
    shared, leg, _ = made
    early = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    act = asyncio.ensure_future(shared.forward(RECEIPT, ACT))
    await turn()
    leg.answer(b"done", 1)
    await act
    late = [asyncio.ensure_future(shared.forward(RECEIPT, VIEW)) for _ in range(3)]
    await turn()
    assert len(leg.pending) == 2
    leg.answer(b"stale", 0)
    leg.answer(b"current", 0)
    assert (await early).body == b"stale"
    assert {(await caller).body for caller in late} == {b"current"}
    again = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    assert not leg.pending
    assert (await again).body == b"current"


async def test_heartbeats_pass_and_leave_the_cache_alone(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """A ping neither waits for a view nor empties the cache: fifty workers ping every second."""
    shared, leg, _ = made
    views = [
        asyncio.ensure_future(
            shared.forward(
                RECEIPT, UpstreamRequest("POST", path, b"form", b"", kind="read", cacheable=True)
            )
        )
        for path in (b"/1", b"/2", b"/3")
    ]
    await turn()
    assert leg.sent == [b"/1", b"/2"]
    ping = asyncio.ensure_future(shared.forward(RECEIPT, PING))
    await turn()
    assert leg.sent == [b"/1", b"/2", b"/api/ping"]
    leg.answer(b"pong", 2)
    assert (await ping).body == b"pong"
    leg.answer()
    leg.answer()
    await turn()
    assert (
        await shared.forward(
            RECEIPT, UpstreamRequest("POST", b"/1", b"form", b"", kind="read", cacheable=True)
        )
    ).body == b"x"
    leg.answer()
    assert [(await view).body for view in views] == [b"x"] * 3


def view_of(name: str, path: str) -> UpstreamRequest:
    """A view that `name` asks for."""
    return UpstreamRequest(
        "POST", path.encode(), b"form", b"data={}", kind="read", fairness_key=name
    )


async def test_a_crowd_of_views_keeps_others_waiting_for_one_turn(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """Whoever asks for thirty things at once has them one by one; who asks for one thing meanwhile
    has it next.
    """
    shared, leg, _ = made
    crowd = [
        asyncio.ensure_future(shared.forward(RECEIPT, view_of("loud", f"/{number}")))
        for number in range(30)
    ]
    await turn()
    quiet = asyncio.ensure_future(shared.forward(RECEIPT, view_of("quiet", "/is_paused")))
    await turn()
    leg.answer()
    await turn()
    leg.answer()
    await turn()
    assert leg.sent == [b"/0", b"/1", b"/2", b"/is_paused"]
    while not quiet.done():
        leg.answer()
        await turn()
    assert [call.done() for call in crowd].count(True) <= 4
    while leg.pending:
        leg.answer()
        await turn()
    assert [(await call).body for call in [*crowd, quiet]] == [b"x"] * 31
    assert leg.sent[4:] == [b"/%d" % number for number in range(3, 30)]


async def test_who_joins_a_flight_that_waits_brings_it_forward(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """That another asked for the same before, behind much else, costs nobody their turn; it is
    still one call.
    """
    shared, leg, _ = made
    crowd = [
        asyncio.ensure_future(shared.forward(RECEIPT, view_of("loud", f"/{number}")))
        for number in range(30)
    ]
    await turn()
    quiet = [
        asyncio.ensure_future(shared.forward(RECEIPT, view_of("quiet", "/29"))) for _ in range(2)
    ]
    await turn()
    leg.answer()
    leg.answer()
    await turn()
    assert leg.sent == [b"/0", b"/1", b"/2", b"/29"]
    while leg.pending:
        leg.answer()
        await turn()
    assert all(call.done() for call in crowd + quiet)
    assert len(leg.sent) == 30


async def test_failure_is_everybodys_and_is_not_kept(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """When the shared call fails all who waited for it hear why, and the next caller tries anew."""
    shared, leg, _ = made
    callers = [asyncio.ensure_future(shared.forward(RECEIPT, VIEW)) for _ in range(3)]
    await turn()
    leg.pending.pop()[1].set_exception(Unavailable(Reason.UPSTREAM_CLOSED))
    for caller in callers:
        with pytest.raises(Unavailable):
            await caller
    again = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    leg.answer(b"good")
    assert (await again).body == b"good"


async def test_long_answer_belongs_to_one_caller(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """A stream can be read once: the first caller has it, the others ask for themselves."""
    shared, leg, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    second = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    leg.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=Endless()))
    assert (await first).stream is not None
    await turn()
    leg.answer(b"own")
    assert (await second).body == b"own"


async def test_caller_who_leaves_takes_nobody_along(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """The first caller's leaving does not end the call for those who share it."""
    shared, leg, _ = made
    first = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    second = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    first.cancel()
    await turn()
    leg.answer(b"still")
    assert (await second).body == b"still"


async def test_a_stream_that_nobody_waits_for_is_given_up(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """All callers left before it came: it is closed, or its connection would be held for ever."""
    shared, leg, _ = made
    callers = [asyncio.ensure_future(shared.forward(RECEIPT, VIEW)) for _ in range(3)]
    await turn()
    for caller in callers:
        caller.cancel()
    await turn()
    stream = Endless()
    leg.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=stream))
    await turn()
    assert stream.closed


async def test_a_stream_that_comes_in_the_moment_of_leaving_is_given_up(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """The caller who was given it has gone before it could take it."""
    shared, leg, _ = made
    caller = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
    await turn()
    [[flight]] = shared._flights.values()
    stream = Endless()
    flight.callers[0].set_result(UpstreamResponse(200, {}, stream=stream))
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert stream.closed
    leg.answer()
    await turn()


async def test_when_the_first_leaves_the_next_has_the_stream(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """A stream goes to the first who still waits; no second call is made for it."""
    shared, leg, _ = made
    first, second = (asyncio.ensure_future(shared.forward(RECEIPT, VIEW)) for _ in range(2))
    await turn()
    first.cancel()
    stream = Endless()
    leg.pending.pop()[1].set_result(UpstreamResponse(200, {}, stream=stream))
    answer = await second
    assert (answer.stream == stream, len(leg.sent), stream.closed) == (True, 1, False)


def view(number: int, size: int = 0) -> UpstreamRequest:
    """A view of its own."""
    return UpstreamRequest(
        "POST",
        b"/api/task_search",
        b"form",
        b"data=%d " % number + b" " * size,
        kind="read",
        cacheable=True,
    )


async def kept(
    shared: CoalescingUpstream, leg: ManualLeg, outbound: UpstreamRequest, body: bytes = b"x"
) -> bool:
    """Ask; whether the answer was at hand. If not, it is `body`."""
    caller = asyncio.ensure_future(shared.forward(RECEIPT, outbound))
    await turn()
    asked = bool(leg.pending)
    if asked:
        leg.answer(body)
    await caller
    return not asked


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """Eight megabytes, calls and answers together; what is over is dropped as soon as anything else
    is kept.
    """
    shared, leg, clock = made
    for number in range(20):
        assert not await kept(shared, leg, view(number, 200_000), b"y" * 800_000)
        assert shared._cached_bytes <= 8_388_608
    assert [await kept(shared, leg, view(number, 200_000)) for number in (19, 12, 11, 0)] == [
        True,
        True,
        False,
        False,
    ]
    assert not await kept(shared, leg, view(99, 9_000_000))  # larger than all of it
    assert not await kept(shared, leg, view(99, 9_000_000))
    clock.time += 1.0
    assert not await kept(shared, leg, view(100))
    assert len(shared._cache) == 1
    assert shared._cached_bytes < 2000
    for _ in range(5):
        clock.time += 0.5
        await kept(shared, leg, view(100))
    assert len(shared._cache) == 1
    assert shared._cached_bytes < 2000


async def test_where_another_process_may_act_nothing_is_kept() -> None:
    """Zero seconds: every view that nobody is asking is asked."""
    leg = ManualLeg()
    shared = CoalescingUpstream(leg, seconds=0.0, now=Clock())
    assert [await kept(shared, leg, VIEW) for _ in range(2)] == [False, False]
    assert not shared._cache


async def test_what_its_caller_wants_whole_is_not_cut(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """A page is read whole to be mended, up to more bytes than are shared."""
    shared, leg, _ = made
    page = replace(VIEW, max_buffered=4 * 1024 * 1024)
    asked = asyncio.ensure_future(shared.forward(RECEIPT, page))
    await turn()
    assert leg.pending[0][0].max_buffered == page.max_buffered
    leg.answer()
    await asked


async def test_what_is_kept_can_be_changed_while_it_serves(
    made: tuple[CoalescingUpstream, ManualLeg, Clock],
) -> None:
    """When another process acts, too, from now on: nothing is given again. And again when it does
    no longer.
    """
    shared, leg, _ = made

    async def sent() -> bool:
        before = len(leg.sent)
        asked = asyncio.ensure_future(shared.forward(RECEIPT, VIEW))
        await turn()
        if len(leg.sent) > before:
            leg.answer()
        await asked
        return len(leg.sent) > before

    assert [await sent(), await sent()] == [True, False]
    shared.set_cache_ttl(0.0)
    assert [await sent(), await sent()] == [True, True]
    shared.set_cache_ttl(1.0)
    assert [await sent(), await sent()] == [True, False]


async def test_a_failure_leaves_nothing_to_the_collector() -> None:
    """Errors hold frames, and frames what was sent: no cycle keeps them."""

    class Held(UpstreamRequest):
        """One that can be watched."""

    class DeadLeg:
        """A leg to nowhere."""

        async def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> UpstreamResponse:
            raise Unavailable(Reason.UPSTREAM_CLOSED)

    shared = CoalescingUpstream(DeadLeg(), now=Clock())
    gc.disable()
    try:
        outbound = Held(VIEW.http_method, VIEW.path, VIEW.content_type, VIEW.body, kind="read")
        held = weakref.ref(outbound)
        with contextlib.suppress(Unavailable):
            await shared.forward(RECEIPT, outbound)
        del outbound
        await turn()
        assert held() is None
    finally:
        gc.enable()
