"""How much of a long test runs: all of it under CI=true, a part on a developer's machine."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
_PART = 8
_STEP = 7
"""Prime to the powers of two, so that bytes of a counter take every value."""


def examples(number: int) -> int:
    """Return how many of `number` generated examples to try: all under CI, else an eighth."""
    return number if IN_CI else max(1, number // _PART)


def some(cases: Sequence[T]) -> Sequence[T]:
    """Return the cases of one kind to try: all under CI, else every seventh and the last."""
    return cases if IN_CI or len(cases) <= _STEP else [*cases[:-1:_STEP], cases[-1]]
