import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.support.audit import open_journal
from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program


def test_following_prints_what_comes(audit: Path) -> None:
    """tail -f shows a record of a process that began after it did, and ends quietly when
    interrupted.
    """
    code = "from proxy.cli.audit import app; app()"
    command = [sys.executable, "-c", code, "tail", "-f", "-n", "1", "--json", "--dir", str(audit)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        assert orjson.loads(process.stdout.readline())["stage"] == "closed"

        async def later() -> None:
            await open_journal(audit, "late").close()

        asyncio.run(later())
        assert [orjson.loads(process.stdout.readline())["stage"] for _ in range(3)] == [
            "segment",
            "opened",
            "closed",
        ]
        process.terminate()
