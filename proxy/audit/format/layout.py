"""The layout of an audit directory: names of logs, segments and checkpoint files.

An audit directory holds one directory per log, ``<instance>/``. A log holds its segments,
``NNNNNNNN.jsonl`` or, sealed and compressed, ``NNNNNNNN.jsonl.gz``, numbered from 1. The
checkpoints that were signed in a segment are in ``NNNNNNNN.checkpoints``.
"""

from pathlib import Path
from typing import Final

SEGMENT_SUFFIX: Final = ".jsonl"
SEALED_SUFFIX: Final = ".jsonl.gz"
CHECKPOINT_SUFFIX: Final = ".checkpoints"

OPERATOR: Final = "operator"
"""The log for acts on the other logs, such as archiving: each of those has a writer already."""


def segment_name(number: int) -> str:
    """Return the name without suffix of segment `number` (from 1)."""
    return f"{number:08d}"


def segments(directory: Path) -> dict[int, Path]:
    """Return the segments of one log by number, in order.

    Where a segment exists both plain and compressed, the plain file is returned.
    """
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        stem, _, suffix = path.name.partition(".")
        if len(stem) >= 8 and stem.isascii() and stem.isdigit() and suffix in ("jsonl", "jsonl.gz"):
            found.setdefault(int(stem), path)  # "….jsonl" sorts before "….jsonl.gz"
    return dict(sorted(found.items()))


def logs(directory: Path) -> dict[str, Path]:
    """Return the logs of an audit directory by instance name.

    The directory of a log has that log only. A symbolic link to a directory is no log.
    """
    if segments(directory):
        return {directory.name: directory}
    return {
        path.name: path
        for path in sorted(directory.iterdir())
        if path.is_dir() and not path.is_symlink() and segments(path)
    }
