"""The bench measures what it says: its calls, its arithmetic, and the place in the README that it
writes to.
"""

import asyncio
import contextlib
import itertools
import json
import time
import urllib.parse
import xmlrpc.client
from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.calls import LARGE, MEDIUM, PARTS, PING, Call, all_calls, cycle, worker_name
from tests.bench.client import VIEWS, crowds
from tests.bench.compare import Cell, Row, Sample, rows
from tests.bench.credentials import make_credentials
from tests.bench.paced import mix
from tests.bench.peers import bare
from tests.bench.process import free_port, started
from tests.bench.schedulers import percentile
from tests.bench.verify import UNVERIFIED


@pytest.mark.parametrize("call", all_calls(), ids=lambda call: f"{call.protocol} {call.name}")
def test_a_call_is_what_its_name_says(call: Call) -> None:
    """The size in a row's name is that of the body, and the body is a call that stock parsers read."""
    sizes = {MEDIUM: 900, LARGE: 100_000, PARTS: 100_000}
    if call.name in sizes:
        assert abs(len(call.body) - sizes[call.name]) <= 10
    else:
        assert len(call.body) < 300
    if call.protocol == "xmlrpc":
        params, method = xmlrpc.client.loads(call.body)
        assert method == f"queue.{'ping' if call.name == PING else 'add_task'}"
        parts = len(params[-1]) if isinstance(params[-1], list) else 0
    else:
        [(name, value)] = urllib.parse.parse_qsl(call.body.decode())
        assert name == "data"
        parts = len(json.loads(value).get("deps") or ())
    assert (parts > 800) == (call.name == PARTS)


def test_every_row_of_the_comparison_is_there() -> None:
    """Both protocols, three sizes, with and without TLS; then a real luigid."""
    titles = {row.title for row in rows()}
    for protocol in ("XML-RPC", "Luigi"):
        for name in (PING, MEDIUM, LARGE):
            assert {f"{protocol} {name}", f"{protocol} {name}, TLS"} <= titles
    assert sum("real luigid" in title for title in titles) == 2


def test_a_target_is_met_only_when_every_row_meets_it() -> None:
    """One row above the limit is a miss, however good the others are; the verdict is computed from
    the medians.
    """
    first, second = (
        row for row in rows() if row.call.protocol == "xmlrpc" and row.call.name == PING
    )

    def cells(own: float) -> dict[str, Cell]:
        return {
            name: Cell([Sample(us, 1, 1, 1, 0, 1) for us in (us, us, 99 * us)])
            for name, us in (("Callgate", own), ("Envoy", 100.0))
        }

    def verdict(results: dict[Row, dict[str, Cell]]) -> bool | None:
        return report.cpu_targets(results)[0][3]

    assert verdict({first: cells(100.0), second: cells(90.0)}) is True
    assert verdict({first: cells(90.0), second: cells(101.0)}) is False
    assert verdict({}) is None


def test_cpu_time_counts_the_whole_tree(tmp_path: Path) -> None:
    """A child of the program under test, and one that has ended, count like the program itself."""
    server = (
        "import http.server, os, subprocess, sys, time\n"
        "burn = 'import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass'\n"
        "subprocess.run([sys.executable, '-c', burn])\n"
        "subprocess.Popen([sys.executable, '-c', burn + '\\ntime.sleep(60)'])\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    port = free_port()
    with started("tree", ["python3", "-c", server, str(port)], tmp_path, port=port) as child:
        end = time.monotonic() + 20
        while child.cpu_seconds() < 0.6 and time.monotonic() < end:
            time.sleep(0.01)
        assert child.cpu_seconds() >= 0.6
        pids = child.tree()
        assert len(pids) == 2
    end = time.monotonic() + 20
    while any(map(_runs, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_readme_gets_the_table_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    """What stands around the markers stays; without markers nothing is written."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.write_readme(["new", "lines"], readme)
    assert readme.read_text() == f"before\n{report.BEGIN}\nnew\nlines\n{report.END}\nafter\n"
    readme.write_text("no place\n")
    assert not report.write_readme(["new"], readme)
    assert readme.read_text() == "no place\n"


def test_the_mix_and_the_page_are_those_of_stock_clients() -> None:
    """A worker's cycle has each kind of its calls; a page loads eight task lists among thirteen
    views.
    """
    kinds = [kind for kind, _ in cycle(worker_name(3), 7)]
    assert kinds == ["add_task", "get_work", "ping", "ping", "ping", "ping", "add_task"]
    assert len(VIEWS) == 13
    assert sum(method == "task_list" for method, _ in VIEWS) == 8


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
async def test_every_call_of_the_timetable_is_made_in_the_order_of_each_worker(status: str) -> None:
    """Every call of the timetable is made and timed, however its answer is cut up; an answer that
    is not 200 is an error.
    """
    seen: dict[int, list[str]] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = seen.setdefault(len(seen), [])
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                mine.append(head.split()[1].removeprefix("/api/"))
                await reader.readexactly(int(head.split("Content-Length: ")[1].split()[0]))
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\n".encode())
                await writer.drain()
                writer.write(b"null")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await mix(
            {"here": port, "there": port}, "token", rate=2000, seconds=0.12, windows=2
        )
    assert {name: len(values) for name, values in result.latencies.items()} == {
        f"{way} {n}": 240 for n in (0, 1) for way in ("here", "there")
    }
    assert len(result.errors) == (0 if status == "200 OK" else 4 * 240)
    order = [kind for kind, _ in cycle(worker_name(0), 0)]
    assert [calls for calls in seen.values() if calls] == 4 * 16 * [(3 * order)[:15]]


async def test_a_connection_that_is_lost_is_an_error_of_the_measurement() -> None:
    """Who closes before the answer has answered nothing, and the measurement ends all the same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        result = await mix(
            {"here": server.sockets[0].getsockname()[1]}, "token", rate=100, seconds=0.1, windows=1
        )
    assert result.errors and all("lost" in error for error in result.errors)
    assert result.latencies == {"here 0": []}


async def test_a_crowd_is_counted_apart_from_its_refusals_and_who_is_refused_rests() -> None:
    """Calls that are taken, refusals and pings are counted by crowd; a refused caller comes again
    after half a second at the earliest.
    """
    began: dict[int, list[float]] = {}
    kinds: dict[int, str] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = len(kinds)
        kinds[mine] = "silent"
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                began.setdefault(mine, []).append(time.monotonic())
                body = (
                    await reader.readexactly(int(head.split("Content-Length: ")[1].split()[0]))
                ).decode()
                odd = int(body.partition("etl-node-")[2][:2]) % 2
                kinds[mine] = "ping" if "/api/ping" in head else "refused" if odd else "taken"
                status = "503 Service Unavailable" if kinds[mine] == "refused" else "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nnull".encode())
                await asyncio.sleep(0.002)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        result = await crowds(
            server.sockets[0].getsockname()[1],
            "token",
            {"few": 2, "many": 8},
            pingers=1,
            seconds=2.6,
        )
    assert not result.errors
    assert result.latencies.keys() == {"few", "few refused", "many", "many refused", "ping"}
    made = {
        kind: sum(len(times) for number, times in began.items() if kinds[number] == kind)
        for kind in ("taken", "refused", "ping")
    }
    counted = {name: len(values) for name, values in result.latencies.items()}
    assert counted["ping"] == made["ping"]
    assert counted["few"] + counted["many"] < made["taken"], (
        "the first second of a crowd is not counted"
    )
    assert counted["few refused"] + counted["many refused"] < made["refused"]
    for number, times in began.items():
        if kinds[number] == "refused":
            assert all(later - sooner >= 0.49 for sooner, later in itertools.pairwise(times))


async def test_the_bare_relay_passes_calls_and_answers_on(tmp_path: Path) -> None:
    """Whole, over the same connections one after another, whatever pieces they come in, and to
    luigid what is for luigid.
    """
    seen: list[tuple[str, bytes, int]] = []

    async def serve(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = await reader.readexactly(
                    int(head.lower().split("content-length: ")[1].split()[0])
                )
                seen.append((f"{name} {head.split()[1]}", body, id(writer)))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000))
                await writer.drain()
                writer.write(bytes(99_999) + b".")

    async def call(
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str, body: bytes
    ) -> bytes:
        for part in (
            f"POST {path} HTTP/1.1\r\nHost: x\r\ncontent-length: {len(body)}\r".encode(),
            b"\n\r\n" + body[:7],
            body[7:],
        ):
            client[1].write(part)
            await client[1].drain()
            # so that it comes in pieces, as a rule; whether it does is not what is asked
            await asyncio.sleep(0.01)
        await client[0].readuntil(b"\r\n\r\n")
        return await client[0].readexactly(200_000)

    credentials = make_credentials(tmp_path)
    async with (
        await asyncio.start_server(
            lambda *streams: serve("nginx", *streams), "127.0.0.1", 0
        ) as nginx,
        await asyncio.start_server(
            lambda *streams: serve("luigid", *streams), "127.0.0.1", 0
        ) as luigid,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (nginx, luigid)]
        with bare(tmp_path, credentials, None, *ports) as peer:
            for port, tls in ((peer.port, None), (peer.tls_port, UNVERIFIED)):
                client = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
                for path, body in (
                    ("/api/ping", b"data=%7B%7D"),
                    ("/luigid/api/ping", b"data=1"),
                    ("/rpc", b"x" * 100_000),
                ):
                    assert (await call(client, path, body))[-1:] == b"."
                client[1].close()
    assert [(way, len(body)) for way, body, _ in seen] == 2 * [
        ("nginx /api/ping", 11),
        ("luigid /api/ping", 6),
        ("nginx /rpc", 100_000),
    ]
    assert len({connection for _, _, connection in seen}) == 2


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """p99 of a hundred values is one of the last two, never beyond them."""
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 99) == 100.0
    assert percentile(values, 50) == 51.0
    assert percentile([7.0], 99) == 7.0
