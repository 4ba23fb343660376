"""What one client makes the process hold before a handler has claimed it for a principal."""

from proxy.common.address import address_key
from proxy.common.memory_budget import FREE_BYTES, MemoryBudget, Reservation


class UnclaimedMemory:
    """The charge of one connection to the address of its client."""

    __slots__ = ("_address", "_budget", "_reservation")

    def __init__(self, budget: MemoryBudget, address: str) -> None:
        self._budget = budget
        self._address = address
        self._reservation: Reservation | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is charged."""
        return self._reservation is None

    def hold(self, size: int, *, forced: bool = False) -> None:
        """Charge `size` bytes in all; up to `FREE_BYTES` are not counted.

        What is `forced` is never refused.

        Raises:
            Unavailable: OVERLOADED.

        """
        if size <= FREE_BYTES:
            self.release()
            return
        if self._reservation is None:
            self._reservation = self._budget.for_address(address_key(self._address))
        self._reservation.resize(size, forced=forced)

    def release(self) -> None:
        """Charge nothing any more."""
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
