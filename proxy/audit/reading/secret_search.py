"""Finds the records that hold a given secret, though the log holds no secret.

Records have keyed hashes of secrets: the key turns a suspected value into the same hash.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy.audit.reading.reader import LogEntry, read_all
from proxy.audit.reading.records import DecidedRecord
from proxy.audit.redaction.redactor import Redactor


def find_secret(directory: Path, key: bytes, value: str) -> Iterator[tuple[LogEntry, str]]:
    """Yield each record with an argument whose keyed hash is that of `value`.

    Each comes with the argument's name, dotted where it is nested.
    """
    wanted = Redactor(key).keyed_hash(value)
    for entry in read_all(directory, predicate=lambda raw: wanted.encode() in raw):
        if isinstance(entry.record, DecidedRecord):
            for name in _paths(entry.record.arguments(), wanted, ""):
                yield entry, name


def _paths(value: Any, wanted: str, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("hmac-sha256") == wanted:
            yield path
            return
        for name, inner in value.items():
            yield from _paths(inner, wanted, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _paths(inner, wanted, f"{path}[{number}]")
