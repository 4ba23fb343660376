"""What a connection's task awaits between two requests, and which goes on with it at once, not in
the loop's next turn.

It is a future as `asyncio.isfuture` knows them: a task hands its wake-up to `add_done_callback`,
and asks for the `result` when that is called. An `asyncio.Future` would have the loop call it,
which costs 1 to 2 us of each request.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Any


class Arrival:
    """Awaited by one task, as often as it likes."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._wake: Callable[[Arrival], object] | None = None
        self._cancelled = False

    def __await__(self) -> Generator["Arrival", None, None]:
        self._asyncio_future_blocking = True
        yield self

    def fire(self) -> None:
        """Wake the task, if it waits here. To be called by the loop only: a task cannot go on
        within another one.
        """
        wake, self._wake = self._wake, None
        if wake is not None:
            wake(self)

    # -- asked by the task

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the task."""
        return self._loop

    def add_done_callback(
        self, wake: Callable[["Arrival"], object], *, context: Any = None
    ) -> None:
        """Note how to wake the task, which now waits."""
        self._wake = wake

    def cancel(self, msg: object = None) -> bool:
        """End the wait: the task is being cancelled."""
        self._cancelled = True
        self._loop.call_soon(self.fire)
        return True

    def result(self) -> None:
        """Nothing, once fired. Raises `asyncio.CancelledError` when the task is being cancelled."""
        if self._cancelled:
            raise asyncio.CancelledError
