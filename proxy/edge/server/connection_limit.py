"""How many clients may be connected at once: in total, and from one address.

All listeners of a process share one limit, because they share its file descriptors and its memory.
"""


class ConnectionLimit:
    """A count of open connections, in total and by address key (`proxy.common.address`)."""

    def __init__(self, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self.open = 0
        self._open_by_address: dict[str, int] = {}

    def acquire(self, address_key: str | None) -> bool:
        """Count a connection; return False if it would be one too many.

        One whose client is not known yet (None) counts in total alone, until `assign`.
        """
        if self.open >= self._total:
            return False
        if address_key is not None and not self.assign(address_key):
            return False
        self.open += 1
        return True

    def assign(self, address_key: str) -> bool:
        """Count a connection for its address; return False if it would be one too many."""
        open_from_here = self._open_by_address.get(address_key, 0)
        if open_from_here >= self._per_address:
            return False
        self._open_by_address[address_key] = open_from_here + 1
        return True

    def release(self, address_key: str | None) -> None:
        """Take off a connection that `acquire` has counted."""
        self.open -= 1
        if address_key is None:
            return
        left = self._open_by_address[address_key] - 1
        if left:
            self._open_by_address[address_key] = left
        else:
            del self._open_by_address[address_key]
