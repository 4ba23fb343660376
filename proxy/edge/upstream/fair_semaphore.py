"""A few places that many want, shared out fairly between principals: nobody's crowd keeps another
from having a turn.

Whoever asks has a place at once when one is free; else there is a line for each principal, and the
lines are served in turn, so that who asks for one thing waits for one turn of everybody else and
not for all that they have asked for. One principal may be kept from having all the places, and has
at most half of the room to wait.
"""

import asyncio
from collections.abc import Callable

from proxy.errors import Unavailable


class Waiter(asyncio.Future[str]):
    """What waits for a place: gives the name under which the place is held."""

    names: tuple[str, ...] = ()  # the principals in whose lines it stands


class FairSemaphore:
    """`total` places, at most `each` of them for one principal; `room` may wait for one, and for
    `patience` seconds.
    """

    def __init__(
        self,
        total: int,
        *,
        each: int,
        room: int,
        patience: float,
        refusal: Callable[[], Unavailable],
    ) -> None:
        """`refusal` makes the error for whoever would wait where there is no room, or has waited
        too long.
        """
        self._free = total
        self._each = each
        self._room = room
        self._patience = patience
        self._refusal = refusal
        self._held: dict[str, int] = {}
        # in the order of their turns: who was served last stands last
        self._lines: dict[str, dict[Waiter, None]] = {}
        self._waiting = 0

    def ask(self, name: str) -> Waiter:
        """A turn, which is over at once when there is a place; pass it to `wait` in any case.
        Raises `Unavailable`.
        """
        turn = Waiter(loop=asyncio.get_running_loop())
        if self._free and self._held.get(name, 0) < self._each:
            # nobody is passed over: those who wait, if any, have all that they may have
            self._give(turn, name)
            return turn
        if self._waiting >= self._room or len(self._lines.get(name, ())) >= max(1, self._room // 2):
            raise self._refusal()
        self._waiting += 1
        self.join(turn, name)
        return turn

    def join(self, turn: Waiter, name: str) -> None:
        """Let a turn that waits come as soon as one of `name`, too, who wants the same thing."""
        if turn.done() or name in turn.names:
            return
        self._lines.setdefault(name, {})[turn] = None
        turn.names += (name,)

    async def wait(self, turn: Waiter) -> str:
        """Wait for the turn to come; the name to give the place back under. Raises `Unavailable`."""
        if turn.done():
            return turn.result()
        try:
            async with asyncio.timeout(self._patience):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back(turn.result())  # it came in the moment of giving up
            else:
                self._leave(turn)
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def give_back(self, name: str) -> None:
        """A place held under `name` is free again, and goes to whoever has waited longest for a
        turn and may have one.
        """
        self._free += 1
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]
        for other, line in self._lines.items():
            # one that is given up leaves by itself
            turn = next((turn for turn in line if not turn.done()), None)
            if turn is not None and self._held.get(other, 0) < self._each:
                self._leave(turn)
                if other in self._lines:
                    self._lines[other] = self._lines.pop(other)
                self._give(turn, other)
                return

    def _give(self, turn: Waiter, name: str) -> None:
        self._free -= 1
        self._held[name] = self._held.get(name, 0) + 1
        turn.set_result(name)

    def _leave(self, turn: Waiter) -> None:
        """Take the turn out of every line that it stands in."""
        self._waiting -= 1
        for name in turn.names:
            line = self._lines.get(name)
            if line is not None:
                line.pop(turn, None)
                if not line:
                    del self._lines[name]
        turn.names = ()
