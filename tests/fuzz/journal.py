"""Mangled logs: reading, checking and recovering one never raises an error of its own.

A log that is called intact is genuine. The input is the files of one log, each after a line
``=== 00000001.jsonl`` (``.checkpoints``, ``.jsonl.gz``, and ``.jsonl.z`` for a segment that is
compressed here). The seed ``genuine`` was written by the journal, with the key below.
"""

import gzip
import re
import tempfile
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

from proxy.audit.checking.log_verifier import LogReport
from proxy.audit.checking.verify import verify_directory
from proxy.audit.format.layout import segments
from proxy.audit.format.segment_file import CORRUPT_GZIP_ERRORS, open_segment
from proxy.audit.reading.reader import LogEntry, LogFollower, last_entries, read_all
from proxy.audit.reading.records import members_of
from proxy.audit.writing.recovery import LogState, recover
from proxy.errors import ConfigError
from tests.fuzz.kit import SEEDS

NAME = re.compile(rb"(?m)^=== ([0-9]{8}\.(?:jsonl|jsonl\.gz|jsonl\.z|checkpoints))\n")
KEYS = [("callgate", b64decode("YIgDP119n8hpjMSpe8b3FCpsZ0N3FGzBgA8adAiEVcI="))]
MEMORY = Path("/dev/shm")  # where it is, syncing costs nothing


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files in an input."""
    parts = NAME.split(data)
    return dict(zip((name.decode() for name in parts[1::2]), parts[2::2], strict=True))


GENUINE = [
    line
    for name, text in sorted(unpack((SEEDS / "journal" / "genuine").read_bytes()).items())
    if name.endswith(".jsonl")
    for line in text.splitlines()
]


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    files = unpack(data)
    if not files:
        return
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        log = Path(name) / "gate"
        log.mkdir()
        for file, text in files.items():
            if file.endswith(".z"):
                file, text = file.removesuffix(".z") + ".gz", gzip.compress(text, 1)
            (log / file).write_bytes(text)
        _read(log.parent)
        before = _check(log)
        state = _recover(log)
        if state is None:
            return
        again = _recover(log)
        if again is None:  # what is left ends with a segment that does not decompress
            assert any(path.name.endswith(".gz") for path in segments(log).values()), (
                "a recovered log can be recovered again"
            )
            return
        assert (again.tree.size, again.tree.root(), again.torn_bytes) == (
            state.tree.size,
            state.tree.root(),
            0,
        ), "a second recovery changes nothing"
        after = _check(log)
        assert before is None or before.broken or not after or not after.broken, (
            "recovering breaks nothing"
        )


def _read(directory: Path) -> None:
    ways: list[Callable[[], list[LogEntry]]] = [
        lambda: list(read_all(directory)),
        lambda: last_entries(directory, 3),
        lambda: LogFollower(directory).poll(),
    ]
    for items in ways:
        try:
            assert all(isinstance(members_of(item.raw), dict) for item in items()), (
                "every line gives a record"
            )
        except (*CORRUPT_GZIP_ERRORS, ConfigError):
            assert any(path.name.endswith(".gz") for path in segments(directory / "gate").values())


def _check(log: Path) -> LogReport | None:
    """Return the report of the checker; assert that a log called intact is genuine where signed."""
    reports = verify_directory(log.parent, KEYS)
    if not reports:
        return None
    [report] = reports
    if report.broken is None:
        lines: list[bytes] = []
        for path in segments(log).values():
            with open_segment(path) as file:
                lines += file.read().splitlines()
        signed = report.signed - report.first
        assert lines[: max(signed, 0)] == GENUINE[report.first : report.signed], (
            "signed records are genuine"
        )
    return report


def _recover(log: Path) -> LogState | None:
    try:
        return recover(log)
    except ConfigError:
        return None
