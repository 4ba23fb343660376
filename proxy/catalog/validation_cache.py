"""Texts that were found good before: workers, families and parameters are named alike in call after
call.

A worker sends its own id with every call, and the same few families, modules and parameter names.
To look a text up takes a tenth of the time that a pattern takes. Only good ones are remembered, of
at most `KEPT` a kind: whoever sends ever new names makes them all be looked at again, no more.
"""

from collections.abc import Callable, Collection

from proxy.model import Value

KEPT = 4096
"""Texts remembered of one kind."""
_LONGEST = 128  # characters of one; so a kind takes two megabytes at most
_AT_ONCE = 64  # names of one object that are worth remembering


class Known:
    """The texts that a rule accepts, with a memory. The rule must depend on the text alone.

    `good` are the texts remembered, the same set for good: whoever finds a text in it need not ask.
    """

    __slots__ = ("_accepts", "good")

    def __init__(self, accepts: Callable[[str], object]) -> None:
        """`accepts` gives something true for a good text."""
        self._accepts = accepts
        self.good: set[str] = set()

    def is_good(self, value: Value) -> bool:
        """Whether `value` is a text, and a good one."""
        if type(value) is not str:
            return False
        if value in self.good:
            return True
        if not self._accepts(value):
            return False
        if len(value) <= _LONGEST:
            self._keep((value,))
        return True

    def are_good(self, names: Collection[str]) -> bool:
        """Whether every one of `names` is good. An object gives its names."""
        if self.good.issuperset(names):
            return True
        if not all(map(self._accepts, names)):
            return False
        if len(names) <= _AT_ONCE and max(map(len, names)) <= _LONGEST:
            self._keep(names)
        return True

    def _keep(self, names: Collection[str]) -> None:
        if len(self.good) + len(names) > KEPT:
            self.good.clear()
        self.good.update(names)
