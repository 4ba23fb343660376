"""A limit on concurrent reads, in total and per principal.

A burst of dashboard requests delays other dashboards at most, and never workers. The limit is
below the pipeline (`proxy.gate.pipeline`), which acquires a slot for each read.
"""

from proxy.errors import Unavailable
from proxy.model import Reason

# Concurrent reads of one principal: sixteen dashboards behind one identity send eight each.
PER_PRINCIPAL = 128


class Slot:
    """The right to one read. Releasing it again has no effect."""

    __slots__ = ("_principal", "_quota")

    def __init__(self, quota: "ViewQuota", principal: str) -> None:
        self._quota: ViewQuota | None = quota
        self._principal = principal

    def release(self) -> None:
        """Give the slot back to its quota, once."""
        quota, self._quota = self._quota, None
        if quota is not None:
            quota.release(self._principal)


class ViewQuota:
    """Counters of concurrent reads: of all principals, and of each.

    A read waits for its turn at the upstream (`proxy.edge.upstream.coalescing`), which can take
    seconds; a batch can hold many reads, and a long response counts until its reader has all of it.
    Reads that wait at the upstream take turns by principal (`proxy.edge.upstream.fair_semaphore`),
    so that many of one principal do not delay the few of another.
    """

    def __init__(self, total: int, per_principal: int) -> None:
        """Allow `total` reads at once, and `per_principal` of one principal."""
        self._total = total
        self._per_principal = per_principal
        self._by_principal: dict[str, int] = {}
        self.in_use = 0

    def acquire(self, principal: str) -> Slot:
        """Return a slot. Raises `Unavailable` (OVERLOADED) when none is free."""
        used = self._by_principal.get(principal, 0)
        if self.in_use >= self._total or used >= self._per_principal:
            raise Unavailable(Reason.OVERLOADED, "too many views at once", retry_after=1)
        self._by_principal[principal] = used + 1
        self.in_use += 1
        return Slot(self, principal)

    def release(self, principal: str) -> None:
        """Count one read of `principal` out. Called by its slot."""
        self.in_use -= 1
        left = self._by_principal[principal] - 1
        if left:
            self._by_principal[principal] = left
        else:
            del self._by_principal[principal]
