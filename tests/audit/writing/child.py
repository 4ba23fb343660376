"""A process of its own that records calls as fast as it can, until it is killed.

``python child.py DIRECTORY NAME COUNT``: every call that has a receipt is "sent" by one write to
the standard output: its id. So what the parent reads is what an upstream would have seen. With
COUNT 0 it never ends by itself.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from proxy.audit.writing.journal import Journal
from proxy.model import Call, Decision, Peer, Principal, Reason

WHO = Principal("https://idp.example/", "okta", "etl", ("etl-worker",))
WHERE = Peer("127.0.0.1", 1, None, "test")
ALLOW = Decision("allow", Reason.ALLOWED, ("p",), "sha256:" + "0" * 64)


async def main(directory: str, name: str, count: int) -> None:
    """Open the log and record calls from eight tasks."""
    journal = Journal.open(Path(directory), name=name, segment_bytes=20_000)
    run = f"{os.getpid()}-{time.monotonic_ns()}"

    async def calls(task: int) -> None:
        number = 0
        while not count or number < count:
            call_id = f"{run}-{task}-{number}"
            [receipt] = await journal.decide(
                call_id,
                WHO,
                WHERE,
                [(Call("luigi", "luigi", "add_task", "work", {"n": number}), ALLOW)],
                0,
            )
            assert receipt is not None
            os.write(1, f"{receipt.call_id}\n".encode())
            await asyncio.sleep(0)
            journal.completed(receipt, outcome="ok", status=200, sent=0, duration_us=0)
            number += 1

    await asyncio.gather(*(calls(task) for task in range(8)))
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
