"""Three times as many callers as the gate takes, in front of a real luigid: what becomes of those it takes, and of the rest."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import gate, peers
from tests.bench.credentials import make_credentials
from tests.bench.process import cores, free_port
from tests.bench.schedulers import client, percentile

IN_FLIGHT = 64  # calls that the gate of this measurement takes at once
TIMES = 3
PINGERS = 16


@dataclass(frozen=True, slots=True)
class Overload:
    """Milliseconds: p99 of calls taken with as many callers as places, three times as many, as many again; p50 and p99 of refusals.

    `refused` and `taken` count calls under overload, `pings_refused` of `pings` heartbeats meanwhile; `errors` are all other
    answers. `kept` is the p99 under overload against the mean of those before and after it in the same round, the median of all.
    """

    kept: float
    before_ms: float
    under_ms: float
    after_ms: float
    refusal_p50_ms: float
    refusal_ms: float
    taken: int
    refused: int
    pings: int
    pings_refused: int
    errors: list[str]


def overload(directory: Path, *, seconds: int, rounds: int, say: Callable[[str], None]) -> Overload:
    """Measure the three in turn, several times; medians."""
    credentials = make_credentials(directory)
    first, last = cores()
    port = free_port()
    limits = f"[limits]\nin_flight = {IN_FLIGHT}\n"
    crowds = {"before": IN_FLIGHT, "under": TIMES * IN_FLIGHT, "after": IN_FLIGHT}
    found: list[dict[str, list[float]]] = []
    errors: list[str] = []
    with (
        gate.serving(directory, credentials, first, name="overload", tls=False, upstream=port, more=limits) as (front, _child),
        peers.luigid(directory, last, port=port),
    ):
        for number in range(rounds):
            job = {"kind": "crowds", "port": front, "token": credentials.token, "crowds": crowds, "pingers": PINGERS, "seconds": seconds}
            seen = client(directory, first, job)
            found.append(seen["latencies"])
            errors += seen["errors"][:3]
            shown = {kind: (len(values), round(percentile(values, 99) * 1000, 1)) for kind, values in seen["latencies"].items() if values}
            say(f"round {number + 1} of {rounds}: calls and their p99 in ms: {shown}")

    def late(kind: str, percent: float = 99) -> float:
        return statistics.median(percentile(latencies.get(kind) or [0.0], percent) * 1000 for latencies in found)

    def count(kind: str) -> int:
        return sum(len(latencies.get(kind, ())) for latencies in found)

    def p99(latencies: dict[str, list[float]], kind: str) -> float:
        return percentile(latencies.get(kind) or [0.0], 99)

    return Overload(
        kept=statistics.median(2 * p99(one, "under") / (p99(one, "before") + p99(one, "after")) for one in found),
        before_ms=late("before"),
        under_ms=late("under"),
        after_ms=late("after"),
        refusal_p50_ms=late("under refused", 50),
        refusal_ms=late("under refused"),
        taken=count("under"),
        refused=count("under refused"),
        pings=count("ping") + count("ping refused"),
        pings_refused=count("ping refused"),
        errors=errors,
    )
