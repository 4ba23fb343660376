"""The upstream leg against an upstream that fails in every way it can."""

import asyncio
import contextlib
import gc
import resource
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.edge.tls import server_context, upstream_context
from proxy.edge.upstream.circuit_breaker import FAILURES
from proxy.edge.upstream.connection import HEAD_LIMIT, UpstreamConnection
from proxy.edge.upstream.pool import UpstreamAddress
from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamRequest
from tests.support.edge_server import LOOP_NAMES, LOOPS, NewLoop, certificate, run, until
from tests.support.scripted_upstream import (
    ACT,
    OK,
    RECEIPT,
    VIEW,
    Conversation,
    body_of,
    both,
    leg_to,
    saying,
    serve_all,
    upstream,
)

HEAD_200 = b"HTTP/1.1 200 OK\r\n"
PATIENCE = UpstreamAddress(
    "test", first_byte_seconds=0.1, idle_seconds=0.1
)  # for what is meant to time out
PING = replace(ACT, path=b"/api/ping", kind="heartbeat")
GET = UpstreamRequest("GET", b"/", b"", b"", kind="read")

GOOD: dict[str, tuple[bytes, int, bytes]] = {
    "length": (HEAD_200 + b"Content-Length: 3\r\n\r\nabc", 200, b"abc"),
    "chunks": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        200,
        b"abc",
    ),
    "chunks and trailers": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        200,
        b"abc",
    ),
    "no length, until the end": (HEAD_200 + b"\r\nabc", 200, b"abc"),
    "no length and no body": (HEAD_200 + b"\r\n", 200, b""),
    "an error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nabc", 500, b"abc"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304 with the length of what it stands for": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
        304,
        b"",
    ),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"{}"),
    "after two 103": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Type: a\r\n\r\n" * 2 + OK,
        200,
        b"{}",
    ),
    "no phrase": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b""),
    "more than it should": (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", 200, b"{}"),
    "garbage behind": (OK + b"garbage", 200, b"{}"),
    "body of a 204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", 204, b""),
}
BAD: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.UPSTREAM_CLOSED),
    "half a head": (HEAD_200 + b"Content-Le", Reason.UPSTREAM_CLOSED),
    "too short": (HEAD_200 + b"Content-Length: 5\r\n\r\nabc", Reason.UPSTREAM_CLOSED),
    "half a chunk": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        Reason.UPSTREAM_CLOSED,
    ),
    "no last chunk": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        Reason.UPSTREAM_CLOSED,
    ),
    "nothing after 100": (b"HTTP/1.1 100 Continue\r\n\r\n", Reason.UPSTREAM_CLOSED),
    "HTML without HTTP": (b"<html>hello</html>", Reason.UPSTREAM_INVALID),
    "garbage": (bytes(range(256)), Reason.UPSTREAM_INVALID),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", Reason.UPSTREAM_INVALID),
    "length and chunks": (
        HEAD_200 + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Reason.UPSTREAM_INVALID,
    ),
    "two lengths": (
        HEAD_200 + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        Reason.UPSTREAM_INVALID,
    ),
    "other coding": (HEAD_200 + b"Transfer-Encoding: gzip\r\n\r\nabc", Reason.UPSTREAM_INVALID),
    "two codings": (
        HEAD_200 + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Reason.UPSTREAM_INVALID,
    ),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", Reason.UPSTREAM_INVALID),
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
        Reason.UPSTREAM_INVALID,
    ),
    "101 out of nowhere": (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
        Reason.UPSTREAM_INVALID,
    ),
    "status 000": (b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", Reason.UPSTREAM_INVALID),
    "status 999": (b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n", Reason.UPSTREAM_INVALID),
    "endless header": (HEAD_200 + b"X: " + b"a" * (HEAD_LIMIT + 400_000), Reason.UPSTREAM_INVALID),
    "endless headers": (HEAD_200 + b"X: a\r\n" * 80_000, Reason.UPSTREAM_INVALID),
    "endless interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, Reason.UPSTREAM_INVALID),
    "endless chunk extension": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n3;a=" + b"a" * 500_000,
        Reason.UPSTREAM_INVALID,
    ),
}


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
@pytest.mark.parametrize("name", GOOD)
def test_an_answer_is_read_by_its_own_framing(name: str, new_loop: NewLoop) -> None:
    """Every framing that HTTP/1.1 allows gives the whole body, and the next call gets its own
    answer, never a leftover.
    """
    data, status, body = GOOD[name]

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(data if conversation.number == 1 else OK)

    async def main() -> None:
        async with both(script) as (leg, _):
            answer = await leg.forward(RECEIPT, VIEW)
            assert (answer.status, await body_of(answer)) == (status, body)
            again = await leg.forward(RECEIPT, VIEW)
            assert (again.status, again.body) == (200, b"{}")

    run(main(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
@pytest.mark.parametrize("outbound", [VIEW, ACT], ids=["read", "write"])
@pytest.mark.parametrize("name", BAD)
def test_a_broken_answer_is_one_clear_refusal(
    name: str, outbound: UpstreamRequest, new_loop: NewLoop
) -> None:
    """Whatever the upstream says wrong: one reason, nothing sent twice on a new connection, and the
    connection is not kept.
    """
    data, reason = BAD[name]

    async def main() -> None:
        async with both(saying(data)) as (leg, seen):
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, outbound)
            assert refused.value.reason is reason
            assert refused.value.sent
            assert len(seen.requests) == 1
            assert leg.in_use == 0

    run(main(), new_loop)


def test_the_answer_may_come_in_any_pieces() -> None:
    """How the answer falls into packets changes nothing."""
    data, _, body = GOOD["chunks"]

    async def main() -> None:
        for at in range(1, len(data)):
            async with both(saying(data[:at], data[at:], stay=True)) as (leg, _):
                assert (await leg.forward(RECEIPT, VIEW)).body == body

    run(main())


def test_connections_are_kept_and_used_again() -> None:
    """Calls one after the other share a connection; what is sent holds our own headers and nothing
    else.
    """

    async def main() -> None:
        async with both(serve_all) as (leg, seen):
            for _ in range(5):
                await leg.forward(RECEIPT, ACT)
            assert seen.connections == 1
            head, body = seen.requests[0].split(b"\r\n\r\n")
            assert body == ACT.body
            assert head.split(b"\r\n") == [
                b"POST /api/add_task HTTP/1.1",
                b"Host: 127.0.0.1:%d" % seen.port,
                b"Content-Type: application/x-www-form-urlencoded",
                b"Content-Length: 11",
            ]

    run(main())


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_call_arrives_whole_however_long(new_loop: NewLoop, tls: bool, tmp_path: Path) -> None:
    """Head and body travel joined or side by side; the upstream sees the same bytes, and nothing
    behind them.
    """
    files = certificate(tmp_path) if tls else None

    async def main() -> None:
        serving = server_context(files.certificate, files.key) if files else None
        async with upstream(serve_all, tls=serving) as seen:
            asking = upstream_context(files.ca) if files else None
            target = UpstreamAddress(
                "test", port=seen.port, tls=asking, server_hostname="localhost" if files else None
            )
            async with leg_to(target) as leg:
                sizes = (0, 1, 16_383, 16_384, 16_385, 300_000, 3_000_000)
                for size in sizes:
                    assert (
                        await leg.forward(
                            RECEIPT,
                            replace(
                                ACT, body=bytes(range(256)) * (size // 256) + b"a" * (size % 256)
                            ),
                        )
                    ).status == 200
                for size, request in zip(sizes, seen.requests, strict=True):
                    head, _, body = request.partition(b"\r\n\r\n")
                    assert head.endswith(b"\r\nContent-Length: %d" % size)
                    assert body == bytes(range(256)) * (size // 256) + b"a" * (size % 256)
                assert seen.connections == 1

    run(main(), new_loop)


def test_the_gates_own_credential_goes_along() -> None:
    """An upstream with a password of its own gets it from the settings."""

    async def main() -> None:
        async with both(serve_all, UpstreamAddress("test", authorization=b"Basic YTpi")) as (
            leg,
            seen,
        ):
            await leg.forward(RECEIPT, replace(VIEW, accept_gzip=True))
            assert b"\r\nAuthorization: Basic YTpi\r\n" in seen.requests[0]
            assert b"\r\nAccept-Encoding: gzip\r\n" in seen.requests[0]

    run(main())


async def _dies_on_the_second(conversation: Conversation) -> None:
    """Answer one request, read another, and close without a word: a kept connection that turns out
    dead.
    """
    await conversation.request()
    await conversation.say(OK)
    await conversation.request()


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
def test_a_view_is_asked_again_once_when_a_kept_connection_is_dead(new_loop: NewLoop) -> None:
    """The caller does not notice, and the second attempt is on a connection of its own."""

    async def main() -> None:
        async with both(_dies_on_the_second) as (leg, seen):
            await leg.forward(RECEIPT, VIEW)
            assert (await leg.forward(RECEIPT, VIEW)).body == b"{}"
            assert (seen.connections, len(seen.requests)) == (2, 3)

    run(main(), new_loop)


def test_a_view_is_not_asked_a_third_time() -> None:
    """An upstream that dies on every call gets two, and the caller a reason."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        if conversation.number == 1:
            await conversation.say(OK)
            await conversation.request()

    async def main() -> None:
        async with both(script) as (leg, seen):
            await leg.forward(RECEIPT, VIEW)
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, VIEW)
            assert refused.value.reason is Reason.UPSTREAM_CLOSED
            assert len(seen.requests) == 3

    run(main())


@pytest.mark.parametrize("kind", ["write", "heartbeat"])
def test_a_call_that_may_act_is_never_sent_twice(kind: str) -> None:
    """On a dead kept connection nobody knows whether it acted: the caller is told, and the upstream
    sees it once.
    """

    async def main() -> None:
        async with both(_dies_on_the_second) as (leg, seen):
            await leg.forward(RECEIPT, VIEW)
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, replace(ACT, kind=kind))  # type: ignore[arg-type]  # pytest gives one of the literals
            assert refused.value.reason is Reason.UPSTREAM_CLOSED
            assert refused.value.sent
            assert [b"add_task" in request for request in seen.requests] == [False, True]

    run(main())


def test_a_view_whose_answer_has_begun_is_not_asked_again() -> None:
    """Half an answer is an answer: only silence makes a connection dead."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(OK)
        await conversation.request()
        await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Le")

    async def main() -> None:
        async with both(script) as (leg, seen):
            await leg.forward(RECEIPT, VIEW)
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, VIEW)
            assert refused.value.reason is Reason.UPSTREAM_CLOSED
            assert len(seen.requests) == 2

    run(main())


def test_a_connection_closed_while_idle_is_not_used() -> None:
    """An upstream that closes between calls costs not even a call that acts."""

    async def main() -> None:
        async with both(saying(OK)) as (leg, seen):
            for number in range(1, 4):
                await leg.forward(RECEIPT, ACT)
                await until(lambda: not leg._idle)
                assert seen.connections == number

    run(main())


def test_an_upstream_that_speaks_out_of_turn_loses_the_connection() -> None:
    """Bytes on an idle connection cannot become the answer to the next call."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(OK)
        if conversation.number == 1:
            await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
            await conversation.gone()

    async def main() -> None:
        async with both(script) as (leg, seen):
            assert (await leg.forward(RECEIPT, VIEW)).body == b"{}"
            await until(lambda: not leg._idle)
            assert (await leg.forward(RECEIPT, VIEW)).body == b"{}"
            assert seen.connections == 2

    run(main())


def test_an_answer_before_the_end_of_the_request_is_taken_and_the_connection_dropped() -> None:
    """What the upstream did not read would be read as the next call."""

    async def script(conversation: Conversation) -> None:
        await conversation.reader.readuntil(b"\r\n\r\n")
        await conversation.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await conversation.gone()

    async def main() -> None:
        async with both(script) as (leg, _):
            conversation = leg.forward(RECEIPT, replace(ACT, body=b"a" * 30_000_000))
            assert (await conversation).status == 413
            assert leg.in_use == 0
            assert not leg._idle

    run(main())


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\n", HEAD_200 + b"Content-Length: 5\r\n\r\nabc"],
    ids=["nothing", "head", "body"],
)
def test_a_slow_upstream_is_given_up(said: bytes) -> None:
    """Silence, before the answer or in the middle of it, ends in ``upstream-timeout`` and a closed
    connection.
    """

    async def main() -> None:
        async with both(saying(said, stay=True), PATIENCE) as (leg, seen):
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, VIEW)
            assert refused.value.reason is Reason.UPSTREAM_TIMEOUT
            await asyncio.gather(*seen.conversations)
            assert len(seen.requests) == 1

    run(main())


def test_an_upstream_that_is_down_is_unreachable() -> None:
    """Nothing was sent, and the caller may come back."""

    async def main() -> None:
        async with upstream(serve_all) as seen:
            port = seen.port
        async with leg_to(UpstreamAddress("test", port=port)) as leg:
            # more often than the pool has places: each failure gives its place back
            for _ in range(100):
                with pytest.raises(Unavailable) as refused:
                    await leg.forward(RECEIPT, ACT)
                assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE
                assert not refused.value.sent
                assert refused.value.retry_after

    run(main())


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
@pytest.mark.parametrize("socket_path", ["", "upstream.sock"], ids=["tcp", "unix"])
def test_a_gate_without_free_files_does_not_blame_the_upstream(
    new_loop: NewLoop, socket_path: str, tmp_path: Path
) -> None:
    """Calls are told that the gate is overloaded, however many, and the first one after that is
    served: no breaker has opened.
    """

    async def main() -> None:
        path = tmp_path / socket_path if socket_path else None
        async with (
            upstream(serve_all, path=path) as seen,
            leg_to(UpstreamAddress("test", port=seen.port, socket=str(path or ""))) as leg,
        ):
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # which are open already
            try:
                for _ in range(FAILURES + 1):
                    with pytest.raises(Unavailable) as refused:
                        await leg.forward(RECEIPT, ACT)
                    assert (refused.value.reason, refused.value.status) == (Reason.OVERLOADED, 503)
                    assert (refused.value.retry_after, refused.value.sent) == (1, False)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert not leg.breaker.open
            assert (await leg.forward(RECEIPT, ACT)).status == 200

    run(main(), new_loop)


def test_the_pool_is_bounded_and_its_line_is_fair() -> None:
    """Never more connections than allowed; who waits is served in order; who comes when the line is
    full is told so.
    """

    async def main() -> None:
        go = asyncio.Event()

        async def script(conversation: Conversation) -> None:
            while True:
                await conversation.request()
                await go.wait()
                await conversation.say(OK)

        async with both(script, UpstreamAddress("test", connections=2, waiting=6)) as (leg, seen):
            calls = [
                asyncio.ensure_future(leg.forward(RECEIPT, replace(ACT, path=b"/%d" % n)))
                for n in range(8)
            ]
            await until(lambda: len(seen.requests) == 2 and len(leg._waiting) == 6)
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, ACT)
            assert refused.value.reason is Reason.OVERLOADED
            assert not refused.value.sent
            calls[3].cancel()
            go.set()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in results] == [
                n == 3 for n in range(8)
            ]
            assert seen.connections == 2
            paths = [request.split(b" ")[1] for request in seen.requests]
            assert sorted(paths[:2]) == [b"/0", b"/1"]
            assert [sorted(pair) for pair in (paths[2:4], paths[4:6], paths[6:])] == [
                [b"/2", b"/4"],
                [b"/5", b"/6"],
                [b"/7"],
            ]
            assert leg.in_use == 0

    run(main())


def test_who_waits_too_long_for_a_connection_is_told_so() -> None:
    """A full pool is a reason of its own: nothing was sent, and the place in line is given up."""

    async def main() -> None:
        patient = replace(
            PATIENCE, connections=1, idle_seconds=9, first_byte_seconds=2, patience_seconds=0.1
        )
        async with both(saying(stay=True), patient) as (leg, _):
            results = await asyncio.gather(
                *(leg.forward(RECEIPT, ACT) for _ in range(3)), return_exceptions=True
            )
            failed = [
                (result.reason, result.sent)
                for result in results
                if isinstance(result, Unavailable)
            ]
            assert failed == [
                (Reason.UPSTREAM_TIMEOUT, True),
                (Reason.OVERLOADED, False),
                (Reason.OVERLOADED, False),
            ]
            assert leg.in_use == 0

    run(main())


def test_a_line_that_stands_still_takes_nobody_else() -> None:
    """Once the first in line has waited too long, who comes is turned away at once, before those in
    line are.
    """

    async def main() -> None:
        target = UpstreamAddress("test", connections=1, patience_seconds=30.0)
        async with both(saying(stay=True), target) as (leg, seen):
            served = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            waiting = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            await until(lambda: seen.requests and leg._waiting)
            leg.now = lambda: leg.loop.time() + 31.0
            with pytest.raises(Unavailable) as caught:
                await leg.forward(RECEIPT, ACT)
            assert (caught.value.reason, caught.value.retry_after, waiting.done()) == (
                Reason.OVERLOADED,
                1,
                False,
            )
            served.cancel()
            waiting.cancel()
            await asyncio.gather(served, waiting, return_exceptions=True)

    run(main())


def test_heartbeats_go_first_and_leave_a_turn_to_others() -> None:
    """Whoever says that a worker lives passes those who wait, in order; after eight of them another
    call is served.
    """

    async def main() -> None:
        go = asyncio.Event()

        async def script(conversation: Conversation) -> None:
            await conversation.request()
            await go.wait()
            await conversation.say(OK)
            await serve_all(conversation)

        async with both(script, UpstreamAddress("test", connections=1)) as (leg, seen):
            calls = [
                asyncio.ensure_future(leg.forward(RECEIPT, replace(ACT, path=b"/%d" % n)))
                for n in range(5)
            ]
            await until(lambda: seen.requests and len(leg._waiting) == 4)
            pings = [
                asyncio.ensure_future(leg.forward(RECEIPT, replace(PING, path=b"/p%d" % n)))
                for n in range(19)
            ]
            await until(lambda: len(leg._heartbeats) == 19)
            pings[0].cancel()
            go.set()
            assert {answer.status for answer in await asyncio.gather(*calls, *pings[1:])} == {200}
            paths = [request.split(b" ")[1].decode() for request in seen.requests]
            firsts, seconds, rest = (
                [f"/p{n}" for n in numbers]
                for numbers in (range(1, 9), range(9, 17), range(17, 19))
            )
            assert paths == ["/0", *firsts, "/1", *seconds, "/2", *rest, "/3", "/4"]
            assert (seen.connections, leg.in_use) == (1, 0)

    run(main())


def test_a_heartbeat_is_taken_where_others_are_turned_away() -> None:
    """In a line that is full, and in one that stands still; a line of heartbeats has bounds too,
    twice as wide.
    """

    async def main() -> None:
        target = UpstreamAddress("test", connections=1, waiting=2, patience_seconds=30.0)
        async with both(saying(stay=True), target) as (leg, seen):

            async def turned_away(outbound: UpstreamRequest) -> None:
                with pytest.raises(Unavailable) as caught:
                    await leg.forward(RECEIPT, outbound)
                assert (caught.value.reason, caught.value.retry_after, caught.value.sent) == (
                    Reason.OVERLOADED,
                    1,
                    False,
                )

            calls = [asyncio.ensure_future(leg.forward(RECEIPT, ACT)) for _ in range(3)]
            await until(lambda: seen.requests and len(leg._waiting) == 2)
            await turned_away(ACT)
            calls += [asyncio.ensure_future(leg.forward(RECEIPT, PING)) for _ in range(3)]
            await until(lambda: len(leg._heartbeats) == 3)
            leg.now = lambda: leg.loop.time() + 31.0
            calls.pop(1).cancel()
            await until(lambda: len(leg._waiting) == 1)
            await turned_away(ACT)
            calls.append(asyncio.ensure_future(leg.forward(RECEIPT, PING)))
            await until(lambda: len(leg._heartbeats) == 4)
            await turned_away(PING)
            calls.pop().cancel()
            await until(lambda: len(leg._heartbeats) == 3)
            leg.now = lambda: leg.loop.time() + 61.0
            await turned_away(PING)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert not leg._heartbeats
            assert not leg._waiting

    run(main())


def test_a_heartbeat_that_waits_too_long_is_told_so_later_than_others() -> None:
    """It gives its place in line up, after a time that is longer than that of the call that came
    after it.
    """

    async def main() -> None:
        patient = replace(
            PATIENCE, connections=1, idle_seconds=9, first_byte_seconds=9, patience_seconds=0.05
        )
        async with both(saying(stay=True), patient) as (leg, seen):
            served = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            await until(lambda: seen.requests)
            order: list[tuple[str, Reason]] = []

            async def call(outbound: UpstreamRequest) -> None:
                with pytest.raises(Unavailable) as caught:
                    await leg.forward(RECEIPT, outbound)
                order.append((outbound.kind, caught.value.reason))

            await asyncio.gather(call(PING), call(ACT))
            assert order == [("write", Reason.OVERLOADED), ("heartbeat", Reason.OVERLOADED)]
            assert not leg._heartbeats
            served.cancel()
            await asyncio.gather(served, return_exceptions=True)

    run(main())


def test_a_leg_that_closes_lets_heartbeats_go_too() -> None:
    """Whoever waits hears that the gate ends."""

    async def main() -> None:
        async with both(saying(stay=True), UpstreamAddress("test", connections=1)) as (leg, seen):
            calls = [
                asyncio.ensure_future(leg.forward(RECEIPT, outbound))
                for outbound in (ACT, ACT, PING)
            ]
            await until(lambda: seen.requests and leg._waiting and leg._heartbeats)
            leg.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [result.reason for result in results if isinstance(result, Unavailable)] == [
                Reason.DRAINING
            ] * 3

    run(main())


def test_a_connection_lost_lets_the_next_in_line_connect() -> None:
    """A place in the pool that dies is a place for whoever waits."""

    async def script(conversation: Conversation) -> None:
        if conversation.number == 1:
            await conversation.request()
        else:
            await serve_all(conversation)

    async def main() -> None:
        async with both(script, UpstreamAddress("test", connections=1)) as (leg, seen):
            results = await asyncio.gather(
                *(leg.forward(RECEIPT, ACT) for _ in range(3)), return_exceptions=True
            )
            assert [type(result).__name__ for result in results] == [
                "Unavailable",
                "UpstreamResponse",
                "UpstreamResponse",
            ]
            assert len(seen.requests) == 3

    run(main())


@pytest.mark.interpreted
def test_a_place_that_comes_in_the_moment_of_giving_up_is_passed_on() -> None:
    """A caller who leaves just as a connection becomes its own does not take it along."""

    async def main() -> None:
        async with both(serve_all, UpstreamAddress("test", connections=1)) as (leg, seen):
            calls = [asyncio.ensure_future(leg.forward(RECEIPT, ACT)) for _ in range(3)]
            await until(lambda: len(leg._waiting) == 2)
            finished = leg.finished

            def finish_and_cancel(connection: UpstreamConnection, reusable: bool) -> None:
                finished(connection, reusable)
                calls[1].cancel()

            leg.finished = finish_and_cancel  # type: ignore[method-assign]  # the moment is one between two turns of the loop
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result).__name__ for result in results] == [
                "UpstreamResponse",
                "CancelledError",
                "UpstreamResponse",
            ]
            assert (seen.connections, len(seen.requests), leg.in_use) == (1, 2, 0)

    run(main())


def test_who_gives_up_waiting_leaves_the_line() -> None:
    """Those who have left do not count against those who come."""

    async def main() -> None:
        async with both(saying(stay=True), UpstreamAddress("test", connections=1, waiting=2)) as (
            leg,
            seen,
        ):
            served = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            await until(lambda: seen.requests)
            for _ in range(5):
                calls = [asyncio.ensure_future(leg.forward(RECEIPT, ACT)) for _ in range(2)]
                await until(lambda: len(leg._waiting) == 2)
                for call in calls:
                    call.cancel()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert not leg._waiting
            served.cancel()

    run(main())


def test_a_connection_that_fails_lets_the_next_in_line_try() -> None:
    """Who waits behind a connection attempt learns as soon as it has failed."""

    async def main() -> None:
        async with upstream(serve_all) as seen:
            port = seen.port
        async with leg_to(UpstreamAddress("test", port=port, connections=1)) as leg:
            results = await asyncio.gather(
                *(leg.forward(RECEIPT, ACT) for _ in range(4)), return_exceptions=True
            )
            assert [result.reason for result in results if isinstance(result, Unavailable)] == [
                Reason.UPSTREAM_UNREACHABLE
            ] * 4
            assert leg.in_use == 0

    run(main())


def test_a_second_attempt_does_not_take_an_equally_old_connection() -> None:
    """When one kept connection is dead, the next attempt is on a new one, and none is lost from the
    pool.
    """

    async def main() -> None:
        async with both(_dies_on_the_second, UpstreamAddress("test", connections=2)) as (leg, seen):
            await asyncio.gather(leg.forward(RECEIPT, VIEW), leg.forward(RECEIPT, VIEW))
            assert len(leg._idle) == 2
            assert (await leg.forward(RECEIPT, VIEW)).body == b"{}"
            assert (seen.connections, len(leg._open), leg.in_use) == (3, 1, 0)

    run(main())


def test_what_an_interim_answer_says_is_not_part_of_the_answer() -> None:
    """Headers of a 103 are not taken for those of the answer."""

    async def main() -> None:
        async with both(saying(GOOD["after two 103"][0], stay=True)) as (leg, _):
            answer = await leg.forward(RECEIPT, VIEW)
            assert answer.headers == {b"content-type": b"application/json", b"content-length": b"2"}

    run(main())


def test_a_call_given_up_closes_its_connection() -> None:
    """The answer to a call that nobody waits for cannot reach anybody else."""

    async def main() -> None:
        async with both(saying(stay=True)) as (leg, seen):
            call = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            await until(lambda: seen.requests)
            call.cancel()
            await asyncio.gather(*seen.conversations)
            assert call.cancelled()
            assert leg.in_use == 0

    run(main())


def test_closing_the_leg_ends_calls_and_waiting() -> None:
    """At the end of a drain nobody is left hanging."""

    async def main() -> None:
        async with both(saying(stay=True), UpstreamAddress("test", connections=1)) as (leg, seen):
            calls = [asyncio.ensure_future(leg.forward(RECEIPT, ACT)) for _ in range(2)]
            await until(lambda: seen.requests)
            leg.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [result.reason for result in results if isinstance(result, Unavailable)] == [
                Reason.DRAINING
            ] * 2

    run(main())


def test_idle_connections_age() -> None:
    """A connection unused for longer than the upstream may keep it is closed rather than found
    dead.
    """

    async def main() -> None:
        async with both(serve_all, UpstreamAddress("test", keep_seconds=0.0)) as (leg, seen):
            await leg.forward(RECEIPT, ACT)
            await asyncio.gather(*seen.conversations)
            assert not leg._idle
            assert not leg._open

    run(main())


def test_a_long_answer_is_a_stream() -> None:
    """Beyond `whole` bytes the body comes in parts, with the length that was announced, and the
    connection is kept after it.
    """
    body = bytes(range(256)) * 4096

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.say(HEAD_200 + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def main() -> None:
        async with both(script) as (leg, seen):
            for _ in range(3):
                answer = await leg.forward(RECEIPT, VIEW)
                assert answer.stream is not None
                assert answer.length == len(body)
                assert await body_of(answer) == body
            assert seen.connections == 1
            assert leg.in_use == 0

    run(main())


def test_a_long_answer_without_length_is_a_stream_that_ends_with_the_connection() -> None:
    """RFC 9112 section 6.3, rule 8, for a body that its reader has taken in parts."""
    body = b"abcdefgh" * 50_000

    async def main() -> None:
        async with both(saying(HEAD_200 + b"\r\n" + body[:100_000], body[100_000:])) as (leg, _):
            answer = await leg.forward(RECEIPT, VIEW)
            assert answer.stream is not None
            assert answer.length is None
            assert await body_of(answer) == body
            assert leg.in_use == 0

    run(main())


@pytest.mark.parametrize(
    ("more", "reason"),
    [(b"", Reason.UPSTREAM_CLOSED), (b"zz\r\n", Reason.UPSTREAM_INVALID)],
    ids=["cut", "garbage"],
)
def test_a_stream_that_breaks_says_so(more: bytes, reason: Reason) -> None:
    """What arrived is handed over, then the reason: half a body never looks whole."""
    chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"

    async def main() -> None:
        async with both(
            saying(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + more)
        ) as (leg, _):
            answer = await leg.forward(RECEIPT, VIEW)
            assert answer.stream is not None
            with pytest.raises(Unavailable) as refused:
                await body_of(answer)
            assert refused.value.reason is reason
            assert [part async for part in answer.stream] == []

    run(main())


def test_an_upstream_that_falls_silent_in_a_stream_is_given_up() -> None:
    """The deadline of silence holds in the middle of a body too."""

    async def main() -> None:
        async with both(
            saying(HEAD_200 + b"Content-Length: 900000\r\n\r\n" + b"a" * 300_000, stay=True),
            PATIENCE,
        ) as (leg, _):
            answer = await leg.forward(RECEIPT, VIEW)
            with pytest.raises(Unavailable) as refused:
                await body_of(answer)
            assert refused.value.reason is Reason.UPSTREAM_TIMEOUT

    run(main())


def test_an_endless_stream_waits_for_its_reader_and_ends_with_it() -> None:
    """An upstream that never stops sends no more than a few buffers' worth to a reader who takes
    nothing.
    """

    async def main() -> None:
        sent = 0

        async def script(conversation: Conversation) -> None:
            nonlocal sent
            await conversation.request()
            await conversation.say(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n")
            while True:
                await conversation.say(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
                sent += 65_536

        async with both(script, PATIENCE) as (leg, seen):
            answer = await leg.forward(RECEIPT, VIEW)
            assert answer.stream is not None
            taken = 0
            while taken < 1_000_000:
                taken += len(await answer.stream.__anext__())
            before = -1
            while sent != before:  # until the upstream's own socket is full
                before = sent
                for _ in range(100):
                    await asyncio.sleep(0)
            assert (
                sum(len(connection._parts) and connection._size for connection in leg._open)
                <= 600_000
            )
            await answer.stream.aclose()
            await answer.stream.aclose()
            await asyncio.gather(*seen.conversations)
            assert leg.in_use == 0

    run(main())


def test_a_reader_slower_than_the_deadline_is_no_fault_of_the_upstream() -> None:
    """While the leg itself has stopped reading, the upstream's silence is not counted."""
    body = b"a" * 20_000_000

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(HEAD_200 + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await conversation.gone()

    async def main() -> None:
        async with both(script, PATIENCE) as (leg, _):
            answer = await leg.forward(RECEIPT, VIEW)
            [connection] = leg._open
            await until(lambda: connection._paused)
            leg._sweeper.cancel()
            now, leg.now = leg.now, lambda: leg.loop.time() + 3600.0  # an hour passes
            leg._sweep()
            leg.now = now
            assert await body_of(answer) == body

    run(main())


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
def test_a_connection_may_die_after_any_kind_of_answer(new_loop: NewLoop) -> None:
    """What a stream, a whole answer or a known one leaves behind does not keep the next caller from
    hearing that the upstream is gone.
    """
    long = HEAD_200 + b"Content-Length: 300000\r\n\r\n" + b"a" * 300_000

    async def main() -> None:
        for said in ([long], [OK], [OK, OK], [OK, long, OK], [long, OK]):

            async def script(conversation: Conversation, said: list[bytes] = said) -> None:
                for data in said:
                    await conversation.request()
                    await conversation.say(data)
                await conversation.request()

            async with both(script) as (leg, seen):
                for data in said:
                    assert (
                        await body_of(await leg.forward(RECEIPT, ACT))
                        == data.partition(b"\r\n\r\n")[2]
                    )
                with pytest.raises(Unavailable) as refused:
                    await leg.forward(RECEIPT, ACT)
                assert (refused.value.reason, refused.value.sent) == (Reason.UPSTREAM_CLOSED, True)
                assert (seen.connections, leg.in_use) == (1, 0)

    run(main(), new_loop)


def test_a_deadline_runs_from_a_sweep_to_a_sweep_and_is_never_early() -> None:
    """Until the first byte, within an answer, and at rest, each has its seconds, counted from the
    first sweep after the last event.
    """

    async def main() -> None:
        async with both(saying(HEAD_200, stay=True)) as (leg, _):
            leg._sweeper.cancel()
            call = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            await until(lambda: any(connection.heard for connection in leg._open))
            [connection] = leg._open
            # silent since its first byte
            assert not any(connection.overdue(now) for now in (1000.0, 1030.0))
            assert connection.overdue(1030.1)
            connection.data_received(b"X: y\r\n")
            assert not any(connection.overdue(now) for now in (2000.0, 2030.0))
            connection.data_received(b"Content-Length: 0\r\n\r\n")
            await call
            assert not any(connection.overdue(now) for now in (3000.0, 3015.0))  # at rest
            assert connection.overdue(3015.1)
            again = asyncio.ensure_future(leg.forward(RECEIPT, ACT))
            await asyncio.sleep(0)
            assert not any(connection.overdue(now) for now in (4000.0, 4060.0))
            assert connection.overdue(4060.1)
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)

    run(main())


def test_a_call_that_fails_leaves_nothing_to_the_collector() -> None:
    """Errors hold frames, and frames what was sent: were they part of a cycle, a dead upstream
    would fill the memory.
    """

    class Held(UpstreamRequest):
        """One that can be watched."""

    async def main() -> None:
        async with both(saying(b"")) as (leg, _):
            gc.disable()
            try:
                outbound = Held(ACT.http_method, ACT.path, ACT.content_type, ACT.body)
                held = weakref.ref(outbound)
                with contextlib.suppress(Unavailable):
                    await leg.forward(RECEIPT, outbound)
                del outbound
                # the loop itself holds the failed future for the rest of its turn
                await asyncio.sleep(0)
                assert held() is None
            finally:
                gc.enable()

    run(main())


def test_head_answers_have_a_length_and_no_body() -> None:
    """The length is that of the body a GET would have; the connection is not kept, in case the
    upstream sends one.
    """

    async def main() -> None:
        async with both(saying(HEAD_200 + b"Content-Length: 12345\r\n\r\n", stay=True)) as (
            leg,
            seen,
        ):
            answer = await leg.forward(RECEIPT, replace(GET, http_method="HEAD"))
            assert (answer.status, answer.body, answer.stream, answer.length) == (
                200,
                b"",
                None,
                12345,
            )
            await asyncio.gather(*seen.conversations)
            assert seen.requests[0].startswith(b"HEAD / HTTP/1.1\r\n")

    run(main())


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
def test_an_upstream_on_a_unix_socket(tmp_path: Path, new_loop: NewLoop) -> None:
    """A scheduler that listens on a file of this machine is reached there."""

    async def main() -> None:
        async with (
            upstream(serve_all, path=tmp_path / "s") as seen,
            leg_to(UpstreamAddress("test", socket=str(tmp_path / "s"))) as leg,
        ):
            assert (await leg.forward(RECEIPT, VIEW)).body == b"{}"
            assert b"\r\nHost: localhost\r\n" in seen.requests[0]
        async with leg_to(UpstreamAddress("test", socket=str(tmp_path / "none"))) as leg:
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, VIEW)
            assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE

    run(main(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
def test_an_upstream_behind_tls(tmp_path: Path, new_loop: NewLoop) -> None:
    """Its certificate is checked against the CA given, and calls share the connection; another CA
    is no CA.
    """
    files = certificate(tmp_path / "a")
    other = certificate(tmp_path / "b")

    async def main() -> None:
        async with upstream(serve_all, tls=server_context(files.certificate, files.key)) as seen:
            target = UpstreamAddress(
                "test", port=seen.port, tls=upstream_context(files.ca), server_hostname="localhost"
            )
            async with leg_to(target) as leg:
                assert (await leg.forward(RECEIPT, VIEW)).body == b"{}"
                assert (await leg.forward(RECEIPT, ACT)).body == b"{}"
                assert seen.connections == 1
            async with leg_to(replace(target, tls=upstream_context(other.ca))) as leg:
                with pytest.raises(Unavailable) as refused:
                    await leg.forward(RECEIPT, VIEW)
                assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE
                assert not refused.value.sent

    run(main(), new_loop)


def test_a_handshake_that_never_ends_is_given_up() -> None:
    """A plain silent socket where TLS is expected costs the connect deadline."""

    async def script(conversation: Conversation) -> None:
        await conversation.gone()

    async def main() -> None:
        async with both(
            script,
            replace(
                PATIENCE, connect_seconds=0.1, tls=upstream_context(), server_hostname="localhost"
            ),
        ) as (leg, seen):
            with pytest.raises(Unavailable) as refused:
                await leg.forward(RECEIPT, VIEW)
            assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE
            await asyncio.gather(*seen.conversations)

    run(main())
