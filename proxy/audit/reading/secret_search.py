"""Tells whether a record holds a secret that one suspects, without the log holding the secret."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy.audit.reading.reader import LogEntry, read_all
from proxy.audit.redaction.redactor import Redactor


def find_secret(directory: Path, key: bytes, value: str) -> Iterator[tuple[LogEntry, str]]:
    """Give each record with an argument whose keyed hash is that of `value`, and the argument's
    name (dotted).
    """
    wanted = Redactor(key).keyed_hash(value)
    for item in read_all(directory, sift=lambda raw: wanted.encode() in raw):
        for name in _places(item.record.get("args"), wanted, ""):
            yield item, name


def _places(value: Any, wanted: str, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("hmac-sha256") == wanted:
            yield path
            return
        for name, inner in value.items():
            yield from _places(inner, wanted, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, wanted, f"{path}[{number}]")
