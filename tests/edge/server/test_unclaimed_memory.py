"""The charge of one connection to the address of its client."""

import pytest

from proxy.common.memory_budget import FREE_BYTES, MemoryBudget
from proxy.edge.server.unclaimed_memory import UnclaimedMemory
from proxy.errors import Unavailable


def test_little_is_not_counted() -> None:
    """Up to the free bytes nothing is charged, and what falls to them is given back."""
    budget = MemoryBudget()
    memory = UnclaimedMemory(budget, "192.0.2.1")
    memory.hold(FREE_BYTES)
    assert memory.empty
    memory.hold(FREE_BYTES + 1)
    assert budget.held_by_address("192.0.2.1") == FREE_BYTES + 1
    memory.hold(FREE_BYTES)
    assert memory.empty
    assert budget.in_use == 0


def test_a_host_is_charged_for_all_its_addresses() -> None:
    """An IPv6 /64 counts as one, as it does for the number of connections."""
    budget = MemoryBudget()
    for address in ("2001:db8::1", "2001:db8::2"):
        UnclaimedMemory(budget, address).hold(10_000)
    assert budget.held_by_address("2001:db8::/64") == 20_000


def test_too_much_is_refused_unless_it_was_admitted_before() -> None:
    """Then it is counted all the same."""
    budget = MemoryBudget(1 << 20)
    other = UnclaimedMemory(budget, "192.0.2.1")
    other.hold(100_000)
    memory = UnclaimedMemory(budget, "192.0.2.1")
    with pytest.raises(Unavailable):
        memory.hold(100_000)
    memory.hold(100_000, forced=True)
    assert budget.in_use == 200_000
    memory.release()
    memory.release()
    assert budget.in_use == 100_000
