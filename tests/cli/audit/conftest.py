"""An audit directory to run the verbs on."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from proxy.model import Peer, Reason
from tests.support.audit import ALICE, DENY, HASH, Clock, call, one, open_journal

EVIL = Peer("10.9.9.9", 1, None, "\x1b[31mred\nforged line")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit directory with calls of every sort."""
    directory = tmp_path_factory.mktemp("made")

    async def fill() -> None:
        clock = Clock()
        journal = open_journal(directory, clock=clock)
        journal.policy_in_force(
            HASH, {"base.cedar": '@id("etl-workers-work") permit (principal, action, resource);'}
        )
        for n in range(3):
            await one(journal, n, lambda: call(task="etl.Load_1", password="hunter2"))
        clock.now += 24 * 3600 * 10**9
        await journal.decide("denied", ALICE, EVIL, [(call("pause\x1b]0;x", "admin"), DENY)], 0)
        for n in range(15):
            journal.rejected(f"R{n}", EVIL, Reason.NO_CREDENTIAL, "\x9b31m")
        await journal.close()

    asyncio.run(fill())
    return directory


@pytest.fixture
def audit(made: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    subprocess.run(["cp", "-a", str(made), str(tmp_path / "audit")], check=True)
    return tmp_path / "audit"
