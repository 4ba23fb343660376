"""Durations as people type them: `90s`, `15m`, `12h`, `7d`, `2w`."""

import re

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
DURATION = re.compile(r"([0-9]{1,9})([smhdw])")


def parse_duration(text: str) -> int:
    """Return the seconds that a duration such as ``12h`` means.

    Raises:
        ValueError: `text` is not an integer with one of the units s, m, h, d, w.

    """
    found = DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration: write a number and s, m, h, d or w")
    return int(found[1]) * UNITS[found[2]]
