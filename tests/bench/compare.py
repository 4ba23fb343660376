"""The table: every call against every peer, in turns, medians over the rounds."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import gate, peers
from tests.bench.calls import MEDIUM, PARTS, PING, Call, all_calls
from tests.bench.credentials import Credentials, make_credentials
from tests.bench.peers import Peer
from tests.bench.process import Child, cores
from tests.bench.tools import Tools
from tests.bench.verify import check
from tests.bench.wrk import run_wrk, script

CONNECTIONS = 16
_PAUSE = 0.1  # seconds between two runs, so that the one's last writes do not fall on the other


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a call, with or without TLS, with nginx or a real luigid behind."""

    call: Call
    tls: bool
    luigid: bool = False

    @property
    def title(self) -> str:
        """The row's name in the table."""
        behind = ", real luigid" if self.luigid else ""
        return f"{'XML-RPC' if self.call.protocol == 'xmlrpc' else 'Luigi'} {self.call.name}{', TLS' if self.tls else ''}{behind}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the client against one peer: CPU in microseconds a call, calls a second, latency
    in milliseconds, failures.
    """

    cpu_us: float
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    calls: int


@dataclass(slots=True)
class Cell:
    """All samples of one row and column."""

    samples: list[Sample] = field(default_factory=list)

    def median(self, name: str) -> float:
        """The median of one figure over the rounds."""
        values: list[float] = [getattr(sample, name) for sample in self.samples]
        return statistics.median(values)

    def times(self, other: "Cell") -> float:
        """How many times the other's CPU a call costs here: the median over the rounds, in each of
        which the two ran next to each other.

        (A neighbour on the same host makes a whole round dearer or cheaper by a third, and both of
        its runs with it.)
        """
        return statistics.median(
            own.cpu_us / theirs.cpu_us
            for own, theirs in zip(self.samples, other.samples, strict=True)
        )

    @property
    def errors(self) -> int:
        """All failed calls of all rounds."""
        return sum(sample.errors for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Field:
    """Everything that is up during a run."""

    directory: Path
    credentials: Credentials
    tools: Tools
    peers: list[Peer]
    luigid_port: int
    luigid: Child


Results = dict[Row, dict[str, Cell]]


def rows() -> list[Row]:
    """The sixteen rows: six calls with and without TLS, the two of a thousand parts without, and
    two with a real luigid behind.
    """
    calls = all_calls()
    real = [call for call in calls if call.protocol == "luigi" and call.name in (PING, MEDIUM)]
    nginx = [
        Row(call, tls)
        for call in calls
        for tls in (False, True)
        if not (tls and call.name == PARTS)
    ]
    return nginx + [Row(call, tls=False, luigid=True) for call in real]


@contextmanager
def field_of(
    tools: Tools, directory: Path, only: set[str], say: Callable[[str], None]
) -> Iterator[Field]:
    """Start the upstreams and the peers (those named in `only`, or all), and have each prove that
    it works.
    """
    credentials = make_credentials(directory)
    client, proxy = cores()
    with ExitStack() as stack:
        upstream = stack.enter_context(peers.nginx(tools, directory, credentials, client))
        luigid_port, luigid = stack.enter_context(peers.luigid(directory, client))
        behind = (upstream.port, luigid_port)
        makers: dict[str, tuple[str, Callable[[], object]]] = {
            "Envoy": (
                tools.envoy,
                lambda: peers.envoy(tools, directory, credentials, proxy, *behind),
            ),
            "HAProxy": (
                tools.haproxy,
                lambda: peers.haproxy(tools, directory, credentials, proxy, *behind),
            ),
            "mitmproxy": (
                tools.mitmdump,
                lambda: peers.mitmproxy(tools, directory, credentials, proxy, *behind),
            ),
        }
        found = []
        if not only or "Callgate" in only:
            found.append(stack.enter_context(gate.callgate(directory, credentials, proxy, *behind)))
        if peers.is_compiled() and (not only or peers.INTERPRETED in only):
            found.append(
                stack.enter_context(
                    gate.callgate(directory, credentials, proxy, *behind, column=peers.INTERPRETED)
                )
            )
        for name, (program, make) in makers.items():
            if program and (not only or name in only):
                found.append(stack.enter_context(make()))  # type: ignore[arg-type]  # each maker gives a context manager
        if not only or peers.BARE in only:
            found.append(stack.enter_context(peers.bare(directory, credentials, proxy, *behind)))
        if not only or "upstream alone" in only:
            found.append(upstream)
        for peer in found:
            check(peer, all_calls(), credentials)
            say(f"{peer.name}: does what its column says, on every row")
        yield Field(directory, credentials, tools, found, luigid_port, luigid)


def sample(
    given: Field, row: Row, peer: Peer, seconds: float, connections: int = CONNECTIONS
) -> Sample:
    """One run of the client on one cell."""
    name = f"{row.call.protocol}-{row.call.name}".replace(" ", "-")
    lua = script(
        given.directory, name, row.call.body, row.call.content_type, given.credentials.token
    )
    if not row.luigid:
        url, child = peer.url(row.call.path, tls=row.tls), peer.child(tls=row.tls)
    elif peer.routes:
        url, child = peer.url(f"/luigid{row.call.path}", tls=row.tls), peer.child(tls=row.tls)
    else:
        url, child = f"http://127.0.0.1:{given.luigid_port}{row.call.path}", given.luigid
    before = child.cpu_seconds()
    counted = run_wrk(
        given.tools.wrk, url, lua, seconds=seconds, connections=connections, core=cores()[0]
    )
    spent = child.cpu_seconds() - before
    if not counted.calls:
        raise RuntimeError(f"{peer.name}: {row.title}: no call was answered\n{child.tail()}")
    return Sample(
        spent / counted.calls * 1e6,
        counted.calls / counted.seconds,
        counted.p50_ms,
        counted.p99_ms,
        counted.errors,
        counted.calls,
    )


def compare(
    given: Field,
    wanted: list[Row],
    *,
    rounds: int,
    seconds: float,
    until: float,
    say: Callable[[str], None],
) -> Results:
    """All rows and peers in turns, `rounds` times, or fewer when the monotonic time `until` comes
    first (one round is always whole).
    """
    results: Results = {row: {peer.name: Cell() for peer in given.peers} for row in wanted}
    for number in range(rounds):
        began = time.monotonic()
        for row in wanted:
            for peer in given.peers:
                results[row][peer.name].samples.append(sample(given, row, peer, seconds))
                time.sleep(_PAUSE)
        took = time.monotonic() - began
        say(f"round {number + 1} of {rounds}: {took:.0f} s")
        if time.monotonic() + took > until:
            break
    return results
