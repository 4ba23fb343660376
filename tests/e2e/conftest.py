"""Fixtures of the end-to-end tests: fresh luigids, and a gate before one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.stage import Gate, Luigid


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Luigid]:
    """A luigid of the test's own with no gate before it: what is done to it shows what an attack
    does.
    """
    luigid = Luigid(tmp_path / "bare")
    yield luigid
    luigid.stop()


@pytest.fixture
def fresh_luigid(tmp_path: Path) -> Iterator[Callable[..., Luigid]]:
    """Starts luigids with settings, and ends them after the test."""
    started: list[Luigid] = []

    def start(**scheduler: object) -> Luigid:
        started.append(Luigid(tmp_path / f"luigid-{len(started)}", **scheduler))
        return started[-1]

    yield start
    for luigid in started:
        luigid.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """The luigid behind `gate`."""
    luigid = Luigid(tmp_path_factory.mktemp("guarded"))
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, guarded: Luigid) -> Iterator[Gate]:
    """A gate with the shipped policies before `guarded`, at ``/`` and at ``/team-a``."""
    gate = Gate(tmp_path_factory.mktemp("gate"), {"/": guarded, "/team-a": guarded})
    yield gate
    gate.stop()
