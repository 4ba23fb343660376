"""One budget for the memory that callers can make a process hold: bodies and answers in hand.

What counts, in bytes, and which holder is charged:

* A body on its way in: what has arrived of it, or the length that it announced. Its address is
  charged until the caller is identified, its principal from then on.
* A body that is decoded: `decoding_bytes` in addition, reserved before it is inflated or decoded.
  That is a multiple for its text and a bounded one for its elements. Measured as resident memory:
  a text of 16 MiB with one character that needs four bytes takes 6 times its size for as long as
  the call is in hand, and 13 times in the moment in which it is encoded (XML-RPC); 330 kB of
  nothing but small objects take 26 times (Luigi), and the codecs bound their number.
* An answer that arrives and is gathered: its upstream is charged, which is never refused.
* An answer that is buffered or streamed: until the client has taken it.

A holder has a share of the budget: `PRINCIPAL_SHARE` or `ADDRESS_SHARE`. What is alone in hand of
its holder may exceed that share, so that the largest call allowed is possible. The last part of the
budget, `SMALL_SHARE`, is for reservations up to `SMALL_BYTES`: large calls of some do not keep the
ordinary ones of others out. Beyond any of these a reservation is refused at once, never queued.

Bodies and answers up to `FREE_BYTES` are not counted, unless they are compressed. The limits on
connections and on requests in progress bound those.
"""

from proxy.errors import Unavailable
from proxy.model import Reason

# Bytes of the budget of one process.
DEFAULT_BYTES = 256 << 20
# Times its size that the text of a body takes once it is decoded, in addition to itself.
DECODE_FACTOR = 10
# The same for its elements, and the bytes beyond which their number is bounded by the codecs.
ELEMENTS_FACTOR = 16
ELEMENTS_BYTES = 8 << 20
# Bytes of a body or an answer that are not counted: a stock worker's calls are smaller.
FREE_BYTES = 2048
# Bytes of a head that are not counted once it is complete.
LARGE_HEAD_BYTES = 8192
# Bytes of an answer that the parts on its way hold in addition to its body, or of a stream: a part
# that waits for its reader, one that is written, and what the transport has not sent.
WRITE_BYTES = 262_144
# The parts of the budget that one principal and one address may hold.
PRINCIPAL_SHARE = 1 / 4
ADDRESS_SHARE = 1 / 8
# The part of the budget that is left for reservations up to `SMALL_BYTES`.
SMALL_SHARE = 1 / 4
SMALL_BYTES = 1 << 20
_RETRY_SECONDS = 1


def needed_bytes(body_bytes: int) -> int:
    """Return the smallest budget in which a call with a body of `body_bytes` is possible."""
    return int((body_bytes + decoding_bytes(body_bytes)) / (1 - SMALL_SHARE)) + 1


def decoding_bytes(size: int) -> int:
    """Return what decoding `size` bytes takes in addition to them."""
    return DECODE_FACTOR * size + min(ELEMENTS_FACTOR * size, ELEMENTS_BYTES)


class Reservation:
    """A number of bytes, charged to one holder until they are released.

    It has one owner at any time, which releases it. It begins with none.
    """

    __slots__ = ("_budget", "_holder", "_limit", "_released", "size")

    def __init__(self, budget: "MemoryBudget", holder: str, limit: int) -> None:
        self._budget = budget
        self._holder = holder
        self._limit = limit
        self._released = False
        self.size = 0

    def resize(self, size: int, *, forced: bool = False) -> None:
        """Reserve `size` bytes in all. Does nothing once released.

        A `forced` one is never refused: what exists already is counted, so that nothing more is
        admitted in addition.

        Raises:
            Unavailable: OVERLOADED. The reservation is as it was.

        """
        if self._released:
            return
        if size > self.size and not forced:
            self._budget.check(self._holder, self._limit, self.size, size)
        self._budget.charge(self._holder, size - self.size)
        self.size = size

    def release(self) -> None:
        """Give all of it back, for good. Releasing it again has no effect."""
        self.resize(0)
        self._released = True


class MemoryBudget:
    """The reservations of one process."""

    def __init__(self, total: int = DEFAULT_BYTES) -> None:
        """Allow `total` bytes."""
        self.total = total
        self.in_use = 0
        # Reservations that were refused since the start.
        self.refused = 0
        self._held: dict[str, int] = {}

    def for_principal(self, name: str) -> Reservation:
        """Return a reservation of nothing yet, for the principal `name`."""
        return Reservation(self, f"principal {name}", int(self.total * PRINCIPAL_SHARE))

    def for_address(self, address_key: str) -> Reservation:
        """Return a reservation of nothing yet, for a client that is not identified."""
        return Reservation(self, f"address {address_key}", int(self.total * ADDRESS_SHARE))

    def for_upstream(self, name: str) -> Reservation:
        """Return a reservation of nothing yet, for answers that arrive from the upstream `name`."""
        return Reservation(self, f"upstream {name}", self.total)

    def held_by_principal(self, name: str) -> int:
        """Return the bytes that are charged to the principal `name`."""
        return self._held.get(f"principal {name}", 0)

    def held_by_address(self, address_key: str) -> int:
        """Return the bytes that are charged to an address."""
        return self._held.get(f"address {address_key}", 0)

    # -- called by reservations

    def check(self, holder: str, limit: int, now: int, size: int) -> None:
        """Raise `Unavailable` unless a reservation of `holder` may grow from `now` to `size`."""
        others = self._held.get(holder, 0) - now
        if others > 0 and others + size > limit:
            self._refuse(f"this {holder.partition(' ')[0]} has too much in hand")
        room = self.total if size <= SMALL_BYTES else int(self.total * (1 - SMALL_SHARE))
        if self.in_use - now + size > room:
            self._refuse("too much is in hand")

    def charge(self, holder: str, size: int) -> None:
        """Count `size` more bytes of `holder`, or fewer."""
        self.in_use += size
        held = self._held.get(holder, 0) + size
        if held:
            self._held[holder] = held
        else:
            self._held.pop(holder, None)

    def _refuse(self, detail: str) -> None:
        self.refused += 1
        raise Unavailable(Reason.OVERLOADED, detail, retry_after=_RETRY_SECONDS)
