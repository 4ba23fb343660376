"""Every value of `tests/support/luigi_vocabulary.py`, sent to luigid directly and through the gate:
what luigid takes, the gate takes, and luigid holds the same of it.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.luigi_vocabulary import REFUSED, TASK, calls
from tests.support.stage import Gate, Luigid, Response


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid without a gate."""
    luigid = Luigid(tmp_path_factory.mktemp("plain"))
    yield luigid
    luigid.stop()


def compare(
    asked: list[tuple[str, dict[str, Any]]], plain: Luigid, gate: Gate
) -> list[tuple[str, dict[str, Any], Response, Response]]:
    """Make each call both ways, and return those with another status through the gate."""
    token = gate.token("ann", "worker")
    differing = []
    for method, args in asked:
        direct, through = plain.call(method, **args), gate.call(method, token, **args)
        if direct.status != through.status:
            differing.append((method, args, direct, through))
    return differing


def no_constant(text: str) -> float:
    """Refuse what no browser parses."""
    raise ValueError(text)


def assert_views_are_read(gate: Gate) -> None:
    """Assert that a browser reads each view: no call has broken one for others."""
    for view in ("task_list", "worker_list", "graph", "resource_list"):
        answer = gate.call(view, gate.token("viewer"))
        assert answer.status == 200
        json.loads(answer.body, parse_constant=no_constant)


def test_some_of_what_luigid_takes_the_gate_takes(plain: Luigid, gate: Gate) -> None:
    """Every sixth value."""
    assert compare(calls()[::6], plain, gate) == []
    assert_views_are_read(gate)


@pytest.mark.exhaustive
def test_what_luigid_takes_the_gate_takes(plain: Luigid, gate: Gate) -> None:
    """Each call has the status that it has without the gate, and no value of one breaks a view."""
    assert compare(calls(), plain, gate) == []
    assert_views_are_read(gate)


@pytest.mark.parametrize(("method", "odd", "harm"), REFUSED)
def test_what_harms_others_is_refused(
    gate: Gate, method: str, odd: dict[str, Any], harm: str
) -> None:
    """Nothing of the call reaches luigid."""
    base = {**TASK, "task_id": "Odd_1"} if method == "add_task" else {}
    answer = gate.call(method, gate.token("ann", "worker"), **{**base, "worker": "w", **odd})
    assert answer.status in (400, 403), harm
    assert answer.refused in ("bad-arguments", "not-your-worker")
