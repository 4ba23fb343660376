"""How many views may be in hand, so that whoever asks for many at once keeps others from looking,
never workers from working.

A part of the gate's layer, below the pipeline (`proxy.gate.pipeline`).
"""

from proxy.errors import Unavailable
from proxy.model import Reason

# views of one principal at once: sixteen dashboards behind one identity ask for eight each
PER_PRINCIPAL = 128


class ViewQuota:
    """Counts views in and out: all of them, and those of each principal.

    A view waits its turn at the upstream (`proxy.edge.upstream.coalescing`), which can take
    seconds, a bundle can hold many, and a long answer counts until its reader has all of it. The
    gate lets one principal have `PER_PRINCIPAL`; among those that wait, principals take turns
    (`proxy.edge.upstream.fair_semaphore`), so that many of one do not hold up the few of another.
    """

    def __init__(self, total: int, each: int) -> None:
        """`total` views at once, and `each` of one principal."""
        self._total = total
        self._each = each
        self._held: dict[str, int] = {}
        self._sum = 0

    def take(self, principal: str) -> None:
        """Count a view in. Raises `Unavailable`."""
        held = self._held.get(principal, 0)
        if self._sum >= self._total or held >= self._each:
            raise Unavailable(Reason.OVERLOADED, "too many views at once", retry_after=1)
        self._held[principal] = held + 1
        self._sum += 1

    def give_back(self, principal: str) -> None:
        """Count it out."""
        self._sum -= 1
        held = self._held[principal] - 1
        if held:
            self._held[principal] = held
        else:
            del self._held[principal]
