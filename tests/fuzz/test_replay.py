"""Every kept case again, without a fuzzer: the seeds, and whatever was found."""

from pathlib import Path

import pytest

from tests.fuzz.kit import SEEDS, TARGETS, cases, load

KEPT = [(target, case) for target in TARGETS for case in cases(target)]


@pytest.mark.parametrize(
    ("target", "case"), KEPT, ids=[f"{target}/{case.name}" for target, case in KEPT]
)
def test_a_kept_case_holds(target: str, case: Path) -> None:
    """The promises of the target hold for this input, which was made by hand to reach a rule, or
    has once broken one.
    """
    load(target)(case.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.process
def test_a_target_holds_for_its_seeds_cut_and_doubled(target: str) -> None:
    """A plain, fixed mutation of every seed, so that the promises are held a little where there is
    no fuzzer.
    """
    one = load(target)
    for seed in sorted((SEEDS / target).iterdir()):
        data = seed.read_bytes()
        for at in {len(data) * step // 8 for step in range(8)}:
            one(data[:at])
            one(data[:at] + data[at + 1 :])
            one(data[:at] + data[at // 2 :])
            one(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at < len(data) else data)


def test_every_target_has_seeds() -> None:
    """A fuzzer that starts from nothing finds nothing, and a target without cases is not replayed."""
    assert {path.name for path in SEEDS.iterdir()} == set(TARGETS)
    assert all(cases(target) for target in TARGETS)
