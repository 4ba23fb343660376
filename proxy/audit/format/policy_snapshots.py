"""Snapshots of every policy set that was ever in force, next to the logs, by hash.

``<audit directory>/policies/<hex>.json`` has the texts of the set's files by name. The hash is the
policy layer's; every decided record names it. The ``policy`` record of the set has the SHA-256 of
its texts, so that a later edit of the file is noticed. The texts are evidence, and never loaded as
policies.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson

from proxy.common.durable_files import make_directory, replace_atomically

DIRECTORY: Final = "policies"

_HASH = re.compile(r"[a-z0-9-]{1,16}:([0-9a-f]{16,128})")


def save_snapshot(directory: Path, policy_hash: str, files: Mapping[str, str]) -> str:
    """Save a policy set under the audit `directory` and return the digest of its texts.

    Raises:
        OSError: it cannot be saved.
        ValueError: `policy_hash` is not a hash.

    """
    path = _path(directory, policy_hash)
    texts = dict(sorted(files.items()))
    if load_snapshot(directory, policy_hash) != texts:
        make_directory(path.parent)
        snapshot = {"hash": policy_hash, "files": texts}
        replace_atomically(path, orjson.dumps(snapshot, option=orjson.OPT_INDENT_2) + b"\n")
    return digest(texts)


def load_snapshot(directory: Path, policy_hash: str) -> dict[str, str] | None:
    """Return the texts of a policy set by file name, or None if there is no snapshot.

    The caller compares their `digest` with the log's.
    """
    try:
        snapshot = orjson.loads(_path(directory, policy_hash).read_bytes())
        texts = snapshot["files"]
        return {str(name): str(text) for name, text in texts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def digest(texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of a set's texts, in hex."""
    return sha256(orjson.dumps(texts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _path(directory: Path, policy_hash: str) -> Path:
    found = _HASH.fullmatch(policy_hash)
    if found is None:
        raise ValueError(f"{policy_hash!r} is not a hash of a policy set")
    return directory / DIRECTORY / f"{found[1]}.json"
