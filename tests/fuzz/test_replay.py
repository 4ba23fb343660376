"""Every stored case again, without a fuzzer: the seeds and the found ones."""

from pathlib import Path

import pytest

from tests.fuzz.kit import SEEDS, TARGETS, cases, load

KEPT = [(target, case) for target in TARGETS for case in cases(target)]


@pytest.mark.parametrize(
    ("target", "case"), KEPT, ids=[f"{target}/{case.name}" for target, case in KEPT]
)
def test_a_stored_case_holds(target: str, case: Path) -> None:
    """The target's properties hold for a seed, and for an input that once violated one."""
    load(target)(case.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.process
def test_a_target_holds_for_its_seeds_cut_and_doubled(target: str) -> None:
    """A fixed mutation of every seed tests the properties a little without a fuzzer."""
    one = load(target)
    for seed in sorted((SEEDS / target).iterdir()):
        data = seed.read_bytes()
        for at in {len(data) * step // 8 for step in range(8)}:
            one(data[:at])
            one(data[:at] + data[at + 1 :])
            one(data[:at] + data[at // 2 :])
            one(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at < len(data) else data)


def test_every_target_has_seeds() -> None:
    """A fuzzer needs seeds to find anything, and a replay needs cases."""
    assert {path.name for path in SEEDS.iterdir()} == set(TARGETS)
    assert all(cases(target) for target in TARGETS)
