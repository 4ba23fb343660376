"""What a serving process tells its supervisor, once: that it serves, or why it cannot start.

It is one line of JSON in a pipe, of at most `MAX_BYTES`: less than a pipe holds, so that the
process never waits for its supervisor. `Report` is the part of it that `callgate reload` prints.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from proxy.errors import Problem

MAX_BYTES = 16 * 1024
# Characters of one text of a problem.
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a reload.

    `problems` say why it was refused, `unapplied` what of the settings is not in force after it.
    `omitted` is the number of further ones, for which there was no room.
    """

    problems: tuple[Problem, ...] = ()
    unapplied: tuple[Problem, ...] = ()
    omitted: int = 0

    def encode(self, limit: int = MAX_BYTES) -> bytes:
        """Return at most `limit` bytes of JSON, with as many problems as they hold."""
        return orjson.dumps(asdict(self.bounded(limit)))

    def bounded(self, limit: int) -> "Report":
        """Return a report whose JSON has at most `limit` bytes: texts and problems are cut off."""
        room = limit - 200
        kept: dict[str, list[Problem]] = {"problems": [], "unapplied": []}
        omitted = self.omitted
        for name, problems in (("problems", self.problems), ("unapplied", self.unapplied)):
            for problem in map(_cut, problems):
                size = len(orjson.dumps(asdict(problem))) + 1
                if size > room:
                    omitted += 1
                    continue
                room -= size
                kept[name].append(problem)
        return Report(tuple(kept["problems"]), tuple(kept["unapplied"]), omitted)

    @classmethod
    def decode(cls, data: bytes) -> "Report":
        """Return the report in `data`. Raises `ValueError`."""
        return cls._from_members(_members(data))

    @classmethod
    def _from_members(cls, members: dict[str, Any]) -> "Report":
        try:
            return cls(
                tuple(Problem(**each) for each in members["problems"]),
                tuple(Problem(**each) for each in members["unapplied"]),
                int(members["omitted"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("no report") from error


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The settings of the operator's log, which the supervisor takes over."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a process announces.

    If it `serves`, it may take `shutdown_timeout` seconds to end, and `log` are its settings of the
    log. `metrics` is the address of its metrics, and `metrics_bound` whether it has it already:
    while its predecessor has it, it waits.
    """

    serves: bool = True
    shutdown_timeout: float = 0.0
    report: Report = Report()
    log: LogSettings | None = None
    metrics: str = ""
    metrics_bound: bool = True

    def encode(self) -> bytes:
        """Return one line of at most `MAX_BYTES`."""
        members = asdict(self) | {"report": asdict(self.report.bounded(MAX_BYTES - 1000))}
        return orjson.dumps(members) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Announcement":
        """Return what `line` announces. Raises `ValueError`."""
        members = _members(line)
        try:
            log = members["log"]
            return cls(
                bool(members["serves"]),
                float(members["shutdown_timeout"]),
                Report._from_members(members["report"]),
                None if log is None else LogSettings(**log),
                str(members["metrics"]),
                bool(members["metrics_bound"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("no announcement") from error


def failure(problems: Iterable[Problem]) -> Announcement:
    """Return the announcement of a process that cannot start."""
    return Announcement(serves=False, report=Report(tuple(problems)))


def _members(data: bytes) -> dict[str, Any]:
    found = orjson.loads(data)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _cut(problem: Problem) -> Problem:
    texts = (problem.location, problem.message, problem.hint)
    location, message, hint = (
        text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…" for text in texts
    )
    return replace(problem, location=location, message=message, hint=hint)
