"""A process of its own that relays one upstream's answers, as the gate does, and says how much
memory it has needed.

``python -m tests.edge.server.streamer LOOP UPSTREAM_PORT [CERTIFICATE KEY]`` prints the port it
listens on; then, for every line on its standard input, the highest resident set size so far, in
bytes.
"""

import asyncio
import sys
from pathlib import Path

from proxy.edge.tls import server_context
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.pool import ConnectionPool
from proxy.model import Request, Response
from tests.support.edge_server import LOOP_NAMES, LOOPS, ReadBody, RecordingHandler, edge
from tests.support.scripted_upstream import READ, RECEIPT


async def main(upstream_port: int, files: list[Path]) -> None:
    """Relay until standard input ends."""
    leg = ConnectionPool(UpstreamAddress(port=upstream_port))

    async def relay(request: Request, read_body: ReadBody) -> Response:
        answer = await leg.forward(RECEIPT, READ)
        return Response(answer.status, answer.body, stream=answer.stream, length=answer.length)

    async with edge(RecordingHandler(relay), tls=server_context(*files) if files else None) as gate:
        print(gate.port, flush=True)  # noqa: T201  (its output is what it is for)
        while await asyncio.to_thread(sys.stdin.readline):
            print(highest(), flush=True)  # noqa: T201  (as above)
    leg.close()


def highest() -> int:
    """The highest resident set size so far, in bytes; `ru_maxrss` would begin with that of the
    process this one was forked from.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


if __name__ == "__main__":
    with asyncio.Runner(
        loop_factory=dict(zip(LOOP_NAMES, LOOPS, strict=True))[sys.argv[1]]
    ) as runner:
        runner.run(main(int(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
