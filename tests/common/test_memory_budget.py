"""The budget: what is refused, who is charged, and that all of it comes back."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.common.memory_budget import (
    ADDRESS_SHARE,
    DECODE_FACTOR,
    DEFAULT_BYTES,
    ELEMENTS_BYTES,
    ELEMENTS_FACTOR,
    PRINCIPAL_SHARE,
    SMALL_BYTES,
    SMALL_SHARE,
    MemoryBudget,
    Reservation,
    decoding_bytes,
    needed_bytes,
)
from proxy.errors import Unavailable
from proxy.model import Reason

MIB = 1 << 20


def refused(resize: Callable[[], object]) -> Unavailable:
    """Return the refusal of a reservation."""
    with pytest.raises(Unavailable) as caught:
        resize()
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.retry_after == 1
    return caught.value


def test_a_holder_has_its_share_and_others_have_theirs() -> None:
    """One principal cannot take the memory of all; what it gives back is free again."""
    budget = MemoryBudget(256 * MIB)
    held = [budget.for_principal("a") for _ in range(5)]
    for each in held[:4]:
        each.resize(16 * MIB)
    assert budget.held_by_principal("a") == 256 * MIB * PRINCIPAL_SHARE
    assert "principal" in refused(lambda: held[4].resize(1)).detail
    budget.for_principal("b").resize(16 * MIB)
    held[0].release()
    held[4].resize(16 * MIB)
    assert budget.refused == 1


def test_an_address_has_half_the_share_of_a_principal() -> None:
    """A client that is not identified is charged by its address."""
    budget = MemoryBudget(256 * MIB)
    first, second = budget.for_address("192.0.2.1"), budget.for_address("192.0.2.1")
    first.resize(int(256 * MIB * ADDRESS_SHARE))
    assert "address" in refused(lambda: second.resize(1)).detail
    budget.for_address("192.0.2.2").resize(MIB)
    assert budget.held_by_address("192.0.2.1") == 32 * MIB


def test_the_budget_bounds_all_holders_together() -> None:
    """However many of them there are."""
    budget = MemoryBudget(64 * MIB)
    for number in range(64):
        budget.for_principal(str(number)).resize(MIB)
    refused(lambda: budget.for_principal("x").resize(1))
    assert budget.in_use == 64 * MIB


def test_large_reservations_leave_a_part_for_small_ones() -> None:
    """An ordinary call has room where large calls have taken all they may."""
    budget = MemoryBudget(64 * MIB)
    for number in range(6):
        budget.for_principal(str(number)).resize(8 * MIB)
    assert budget.in_use == 64 * MIB * (1 - SMALL_SHARE)
    refused(lambda: budget.for_principal("x").resize(SMALL_BYTES + 1))
    budget.for_principal("x").resize(SMALL_BYTES)


def test_the_largest_call_is_possible_in_an_idle_process() -> None:
    """Alone in hand of its principal it may exceed the share, and nothing else of it fits beside."""
    budget = MemoryBudget()
    largest = 16 * MIB
    decoded = largest + decoding_bytes(largest)
    assert needed_bytes(largest) <= DEFAULT_BYTES
    call = budget.for_principal("a")
    call.resize(largest)
    call.resize(decoded)
    refused(lambda: budget.for_principal("a").resize(1))
    budget.for_principal("b").resize(SMALL_BYTES)
    MemoryBudget(needed_bytes(largest)).for_principal("a").resize(decoded)
    too_little = MemoryBudget(needed_bytes(largest) - 8).for_principal("a")
    refused(lambda: too_little.resize(decoded))


def test_a_small_body_may_take_more_times_its_size_than_a_large_one() -> None:
    """Its elements may take most of it; of a large body they take a bounded part."""
    assert decoding_bytes(1000) == 1000 * (DECODE_FACTOR + ELEMENTS_FACTOR)
    assert decoding_bytes(16 * MIB) == 16 * MIB * DECODE_FACTOR + ELEMENTS_BYTES


def test_a_refusal_changes_nothing() -> None:
    """The reservation is as it was, and can be released."""
    budget = MemoryBudget(16 * MIB)
    call = budget.for_principal("a")
    call.resize(MIB)
    refused(lambda: call.resize(17 * MIB))
    assert (call.size, budget.in_use) == (MIB, MIB)
    call.release()
    assert budget.in_use == 0


def test_what_exists_already_is_counted_and_not_refused() -> None:
    """A forced reservation leaves no room for the next one that is not."""
    budget = MemoryBudget(16 * MIB)
    answer = budget.for_principal("a")
    answer.resize(20 * MIB, forced=True)
    refused(lambda: budget.for_principal("b").resize(1))
    answer.release()
    budget.for_principal("b").resize(1)


def test_it_is_released_once() -> None:
    """A second release, or a late resize, has no effect."""
    budget = MemoryBudget(16 * MIB)
    call, other = budget.for_principal("a"), budget.for_principal("a")
    other.resize(10)
    call.resize(20)
    call.release()
    call.release()
    call.resize(1000)
    assert budget.in_use == budget.held_by_principal("a") == 10


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 3 * SMALL_BYTES),
            st.booleans(),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_the_sums_are_right_whatever_happens(steps: list[tuple[int, int, bool, bool]]) -> None:
    """The total and each holder's sum are those of the reservations, and never beyond the budget
    unless forced.
    """
    budget = MemoryBudget(8 * SMALL_BYTES)
    made: list[Reservation] = [
        budget.for_principal(str(number // 2)) if number < 4 else budget.for_address("x")
        for number in range(6)
    ]
    any_forced = False
    for number, size, forced, release in steps:
        try:
            if release:
                made[number].release()
                made[number] = (
                    budget.for_principal(str(number // 2))
                    if number < 4
                    else budget.for_address("x")
                )
            else:
                any_forced |= forced
                made[number].resize(size, forced=forced)
        except Unavailable:
            pass
        assert budget.in_use == sum(each.size for each in made)
        assert budget.held_by_principal("0") == made[0].size + made[1].size
        assert budget.held_by_address("x") == made[4].size + made[5].size
        assert any_forced or budget.in_use <= budget.total
    for each in made:
        each.release()
    assert budget.in_use == 0
