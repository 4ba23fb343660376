"""Who else may write what the gate trusts, or read what it keeps secret: asked by ``callgate
check``, and by ``serve`` before it starts.

Whoever may write a policy is one who decides, and whoever may write a key set can be anybody. Each
file is held to the mode that its own part of the gate holds it to. What stands on a file system
that is mounted read-only counts as unwritable: containers mount such directories with any mode.
Trusts the owner of each file, root, and the directories above those looked at here.
"""

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy.audit.writing.keys import HMAC_KEY, SIGNING_KEY
from proxy.config.loading import Settings
from proxy.errors import ConfigError, Problem

_WRITE = 0o022  # by the group or by anybody
_ANY = 0o077
_JOURNAL = 0o027  # the group may look: that can be the auditors'


def refuse_open(settings: Settings) -> None:
    """Raise `ConfigError` with every problem, when others than its owner could change what this
    gate does.
    """
    if problems := list(open_to_others(settings.file, dict(settings))):
        raise ConfigError(problems)


def open_to_others(file: Path, tables: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each file and directory whose mode is too wide.

    `file` holds the settings, and `tables` are those of `read_tables`, with None for what could not
    be read. Only looks at names and modes: opens no file.
    """
    found: dict[Path, Problem] = {}
    for path, mask, could, remedy in _trusted(file, tables):
        mode = _mode(path) & mask
        if mode:
            verb = "write" if mode & _WRITE else "read"
            what = f"others than its owner can {verb} this (mode {_mode(path):04o}): {could}"
            found.setdefault(
                path, Problem(str(path), what, f"Run: {remedy} {shlex.quote(str(path))}")
            )
    yield from found.values()


def _trusted(file: Path, tables: Mapping[str, Any]) -> Iterator[tuple[Path, int, str, str]]:
    """Give each path with the permission bits it must not have, what they would let others do, and
    the command that takes them away.
    """
    yield from _replaceable(file, "they could change every setting")
    for issuer in tables["issuers"]:
        if issuer and issuer.jwks_file:
            yield from _replaceable(
                issuer.jwks_file, f"they could sign in as anybody of the issuer {issuer.name}"
            )
        if issuer and issuer.ca_file:
            yield (
                issuer.ca_file,
                _WRITE,
                f"they could stand in for the issuer {issuer.name}",
                "chmod go-w",
            )
    for upstream in tables["upstreams"]:
        if upstream and upstream.ca_file:
            yield (
                upstream.ca_file,
                _WRITE,
                f"they could stand in for the upstream {upstream.name}",
                "chmod go-w",
            )
    if local := tables["local_issuer"]:
        yield (
            local.directory,
            _WRITE,
            "they could sign in as anybody of the local issuer",
            "chmod 700",
        )
        yield local.directory / "state.json", _ANY, "they could issue tokens", "chmod 600"
        yield (
            local.jwks_file,
            _WRITE,
            "they could sign in as anybody of the local issuer",
            "chmod 644",
        )
    if policy := tables["policy"]:
        catalogs = policy.directory / "catalogs"
        for path in (
            policy.directory,
            *_inside(policy.directory, "*.cedar"),
            policy.directory / "roles.toml",
        ):
            yield path, _WRITE, "they could decide who may do what", "chmod go-w"
        for path in (catalogs, *_inside(catalogs, "*.toml")):
            yield path, _WRITE, "they could decide what a method is", "chmod go-w"
    if audit := tables["audit"]:
        for path in (
            audit.directory,
            *(path for path in _inside(audit.directory, "*") if path.is_dir()),
        ):
            yield path, _JOURNAL, "the journal is no proof against them", "chmod 700"
        yield (
            audit.directory / HMAC_KEY,
            _ANY,
            "they could find out what was withheld from the journal",
            "chmod 600",
        )
        yield audit.directory / SIGNING_KEY, _ANY, "they could sign another journal", "chmod 600"


def _replaceable(path: Path, could: str) -> Iterator[tuple[Path, int, str, str]]:
    """A file that others must neither write nor, in a directory of theirs, put another in the place
    of.
    """
    yield path, _WRITE, could, "chmod go-w"
    if not _mode(path.parent) & stat.S_ISVTX:  # with the sticky bit they cannot
        yield path.parent, _WRITE, could, "chmod go-w"


def _inside(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return []  # that it cannot be read is reported by whoever reads it


def _mode(path: Path) -> int:
    """The permission bits that count; none where there is nothing to see."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return 0
    return mode & ~0o222 if read_only else mode
