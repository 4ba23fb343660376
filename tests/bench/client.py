"""A client with a timetable, for what wrk cannot do: calls at given times, latency counted from
when a call was due.

It runs in a process of its own (``python -m tests.bench.client JOB OUT``), so that it can be pinned
and does not wait for the runner. JOB is a JSON file; OUT gets what was measured, as JSON.

- ``mix``: workers that add tasks, ask for work and ping, so many calls a second in all
(`tests.bench.paced`).
- ``crowds``: callers who each make one call after the other, as many as one crowd after the other
has; who is refused comes
  again after about a second, as it was told.
- ``dashboards``: browsers that load the visualiser's thirteen views, each over six connections,
while workers ping once a
  second and now and then report a task and ask for the next.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httptools
import uvloop

from tests.bench.calls import cycle, form_body, task, worker_name
from tests.bench.paced import mix
from tests.bench.seen import Seen

VIEWS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("task_list", {"status": status, "upstream_status": upstream}) for status, upstream in (
        ("RUNNING", ""), ("BATCH_RUNNING", ""), ("FAILED", ""), ("PENDING", "UPSTREAM_FAILED"), ("DISABLED", ""),
        ("PENDING", "UPSTREAM_DISABLED"), ("PENDING", ""), ("DONE", ""))),
    ("worker_list", {}), ("resource_list", {}), ("has_task_history", {}), ("is_pause_enabled", {}), ("is_paused", {}),
)  # fmt: skip
"""What luigi's visualiser asks for when its page loads."""
_BROWSER_CONNECTIONS = 6  # to one host, as browsers do


class Link:
    """One kept-alive connection, one call at a time; it connects anew when the server has closed
    it.
    """

    def __init__(self, port: int, token: str) -> None:
        """Nothing is connected yet."""
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._done = False
        self._size = 0
        self._body: list[bytes] = []

    async def post(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Call luigid's `method` as a worker does; status and body."""
        lines = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        return await self._call(
            f"POST /api/{method} HTTP/1.1\r\n{self._head}{lines}".encode() + body
        )

    async def get(self, method: str, args: dict[str, Any]) -> tuple[int, bytes]:
        """Call luigid's `method` as the visualiser does; status and body (compressed)."""
        query = urllib.parse.urlencode({"data": json.dumps(args)}, quote_via=urllib.parse.quote)
        return await self._call(
            f"GET /api/{method}?{query} HTTP/1.1\r\n{self._head}Accept-Encoding: gzip\r\n\r\n".encode()
        )

    async def _call(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        self._done, self._body = False, []
        parser = httptools.HttpResponseParser(self)
        writer.write(request)
        try:
            while not self._done:
                data = await reader.read(262_144)
                if not data:
                    raise ConnectionError("the server closed the connection")
                parser.feed_data(data)
        except (OSError, httptools.HttpParserError):
            self.close()
            raise
        if not parser.should_keep_alive():
            self.close()
        return parser.get_status_code(), b"".join(self._body)

    def on_body(self, body: bytes) -> None:
        """A part of the answer (httptools)."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole (httptools)."""
        self._done = True

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def crowds(
    port: int, token: str, crowds: dict[str, int], pingers: int, seconds: float
) -> Seen:
    """Each crowd calls for `seconds`, while `pingers` workers ping once a second; latencies by
    crowd, those of refusals apart.

    The first second of a crowd is not counted.
    """
    seen = Seen()
    chance = random.Random(5)
    over = asyncio.Event()

    async def call(kind: str, link: Link, method: str, body: bytes, counted: float = 0.0) -> bool:
        began = time.monotonic()
        try:
            status, answer = await link.post(method, body)
        except (OSError, httptools.HttpParserError) as error:
            seen.errors.append(f"{kind}: {type(error).__name__} {error}")
            return False
        if status not in (200, 503):
            seen.errors.append(f"{kind}: {status} {answer[:200]!r}")
        elif began >= counted:
            seen.latencies.setdefault(kind if status == 200 else f"{kind} refused", []).append(
                time.monotonic() - began
            )
        return status == 200

    async def caller(crowd: str, number: int, end: float) -> None:
        link = Link(port, token)
        counted = end - seconds + 1.0
        body = form_body("add_task", task(number=number, worker=worker_name(number)))
        await _until(counted - 1.0 + number / 1000)
        while (now := time.monotonic()) < end:
            if not await call(crowd, link, "add_task", body, counted):
                await _until(min(end, now + 0.5 + chance.random()))
        link.close()

    async def pinger(number: int) -> None:
        link = Link(port, token)
        body = form_body("ping", {"worker": worker_name(number)})
        while not over.is_set():
            await call("ping", link, "ping", body)
            await _wait(over, 1.0)
        link.close()

    pinging = [asyncio.create_task(pinger(number)) for number in range(pingers)]
    for crowd, size in crowds.items():
        end = time.monotonic() + seconds
        await asyncio.gather(*(caller(crowd, number, end) for number in range(size)))
    over.set()
    await asyncio.gather(*pinging)
    return seen


async def dashboards(
    port: int, tokens: dict[str, str], seconds: float, browsers: int, workers: int, limit: float
) -> Seen:
    """`browsers` load the page, rest five seconds, and load it again, while `workers` work; for
    `seconds`, or until each has one page.

    Gives up after `limit` seconds.
    """
    seen = Seen()
    chance = random.Random(4)
    begin = time.monotonic()
    loaded = [asyncio.Event() for _ in range(browsers)]
    over = asyncio.Event()

    async def browser(number: int) -> None:
        links = [Link(port, tokens["viewer"]) for _ in range(_BROWSER_CONNECTIONS)]
        await _until(begin + chance.random() * 2)
        while not over.is_set():
            due = time.monotonic()
            todo = list(VIEWS)
            size = 0

            async def connection(link: Link, todo: list[tuple[str, dict[str, Any]]] = todo) -> None:
                nonlocal size
                while todo:
                    method, args = todo.pop(0)
                    size += len(await seen.timed("view", time.monotonic(), link.get(method, args)))

            await asyncio.gather(*map(connection, links))
            seen.latencies.setdefault("page", []).append(time.monotonic() - due)
            seen.page_bytes.append(size)
            loaded[number].set()
            await _wait(over, 5.0)
        _close(links)

    async def worker(number: int) -> None:
        link = Link(port, tokens["worker"])
        beat = Link(port, tokens["worker"])  # luigi pings from a thread of its own
        name = worker_name(number)
        ping = form_body("ping", {"worker": name})
        start = begin + number / workers

        async def work() -> None:
            await _wait(over, 10 * number / workers)
            step = 0
            while not over.is_set():
                for kind, body in [
                    call
                    for call in cycle(name, 100_000 + number * 1000 + step)
                    if call[0] != "ping"
                ]:
                    await seen.timed(kind, time.monotonic(), link.post(kind, body))
                step += 1
                await _wait(over, 10.0)

        async def live() -> None:
            beats = 0
            while not over.is_set():
                await _until(start + beats)
                due = time.monotonic()
                await seen.timed("ping", due, beat.post("ping", ping))
                # luigi waits a second after an answer, and skips none twice
                beats = max(beats + 1, int(time.monotonic() - start) + 1)

        await asyncio.gather(work(), live())
        _close([link, beat])

    running = [asyncio.create_task(browser(number)) for number in range(browsers)]
    running += [asyncio.create_task(worker(number)) for number in range(workers)]
    enough = asyncio.gather(asyncio.sleep(seconds), *(one.wait() for one in loaded))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(enough, limit)
    over.set()
    _, late = await asyncio.wait(running, timeout=max(1.0, begin + limit - time.monotonic()))
    for straggler in late:
        straggler.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return seen


async def _until(moment: float) -> None:
    delay = moment - time.monotonic()
    if delay > 0:
        await asyncio.sleep(delay)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _close(links: list[Link]) -> None:
    for link in links:
        link.close()


def main() -> None:
    """Do the job and write down what was seen."""
    job = json.loads(Path(sys.argv[1]).read_text())
    kinds: dict[str, Callable[..., Any]] = {"mix": mix, "crowds": crowds, "dashboards": dashboards}
    seen: Seen = uvloop.run(kinds[job.pop("kind")](**job))
    Path(sys.argv[2]).write_text(
        json.dumps(
            {"latencies": seen.latencies, "page_bytes": seen.page_bytes, "errors": seen.errors}
        )
    )


if __name__ == "__main__":
    main()
