"""Three times as many callers as the gate takes, in front of a real luigid: what becomes of those
it takes, and of the rest.
"""

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
    """Milliseconds: p99 of calls taken with as many callers as places and with three times as many;
    p50 and p99 of refusals.

    All are medians over windows. `kept` is the p99 of a window with too many callers against the
    mean of those before and after it, the median of all. `refused` and `taken` count calls with too
    many callers, `pings_refused` of `pings` heartbeats all the while; `errors` are all other
    answers.
    """

    kept: float
    full_ms: float
    over_ms: float
    refusal_p50_ms: float
    refusal_ms: float
    taken: int
    refused: int
    pings: int
    pings_refused: int
    errors: list[str]


def overload(directory: Path, *, seconds: int, rounds: int, say: Callable[[str], None]) -> Overload:
    """As many callers as places and three times as many, in turns: `rounds` windows with too many,
    and one more with enough.
    """
    credentials = make_credentials(directory)
    first, last = cores()
    port = free_port()
    limits = f"[limits]\nmax_in_flight = {IN_FLIGHT}\n"
    crowds = {"full 0": IN_FLIGHT}
    for number in range(rounds):
        crowds |= {f"over {number}": TIMES * IN_FLIGHT, f"full {number + 1}": IN_FLIGHT}
    with (
        gate.serving(
            directory, credentials, first, name="overload", tls=False, upstream=port, more=limits
        ) as (front, _child),
        peers.luigid(directory, last, port=port),
    ):
        job = {
            "kind": "crowds",
            "port": front,
            "token": credentials.token,
            "crowds": crowds,
            "pingers": PINGERS,
            "seconds": seconds,
        }
        seen = client(directory, first, job)
    latencies: dict[str, list[float]] = seen["latencies"]
    missing = [crowd for crowd in crowds if crowd not in latencies]
    if missing:
        raise RuntimeError(f"no call was taken: {', '.join(missing)}; {seen['errors'][:3]}")
    p99 = {crowd: percentile(latencies[crowd], 99) * 1000 for crowd in crowds}
    say(
        f"calls taken and their p99 in ms: { {crowd: (len(latencies[crowd]), round(late, 1)) for crowd, late in p99.items()} }"
    )
    over, full = (
        [f"{kind} {number}" for number in range(count)]
        for kind, count in (("over", rounds), ("full", rounds + 1))
    )
    refused = [latencies.get(f"{crowd} refused", []) for crowd in over]

    def refusals(percent: float) -> float:
        return statistics.median(percentile(some or [0.0], percent) * 1000 for some in refused)

    return Overload(
        kept=statistics.median(
            2 * p99[f"over {n}"] / (p99[f"full {n}"] + p99[f"full {n + 1}"]) for n in range(rounds)
        ),
        full_ms=statistics.median(p99[crowd] for crowd in full),
        over_ms=statistics.median(p99[crowd] for crowd in over),
        refusal_p50_ms=refusals(50),
        refusal_ms=refusals(99),
        taken=sum(len(latencies[crowd]) for crowd in over),
        refused=sum(map(len, refused)),
        pings=len(latencies.get("ping", ())) + len(latencies.get("ping refused", ())),
        pings_refused=len(latencies.get("ping refused", ())),
        errors=seen["errors"][:3],
    )
