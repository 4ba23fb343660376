"""A process that relays the responses of one upstream and reports its memory.

``python -m tests.support.relay_process LOOP UPSTREAM_PORT [CERTIFICATE KEY]`` prints the port it
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
from tests.support.edge_server import ReadBody, RecordingHandler, edge
from tests.support.loops import LOOP_FACTORIES
from tests.support.scripted_upstream import READ, RECEIPT


async def main(upstream_port: int, files: list[Path]) -> None:
    """Relay until standard input ends."""
    pool = ConnectionPool(UpstreamAddress(port=upstream_port))

    async def relay(request: Request, read_body: ReadBody) -> Response:
        response = await pool.forward(RECEIPT, READ)
        return Response(
            response.status, response.body, stream=response.stream, length=response.length
        )

    async with edge(RecordingHandler(relay), tls=server_context(*files) if files else None) as gate:
        print(gate.port, flush=True)  # noqa: T201  (the interface of this process)
        while await asyncio.to_thread(sys.stdin.readline):
            print(highest(), flush=True)  # noqa: T201  (as above)
    pool.close()


def highest() -> int:
    """Return the highest resident set size so far, in bytes.

    `ru_maxrss` would start at that of the parent process.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[sys.argv[1]]) as runner:
        runner.run(main(int(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
