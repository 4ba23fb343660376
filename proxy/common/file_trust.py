"""Whether other users of this machine could change or replace a file, or read a secret one.

A mode alone does not tell. The owner of a file can change its mode, the owner of a directory can
replace what is in it, and a symbolic link leads wherever its owner likes. So every component of a
path is examined, from the root down, and every symbolic link is followed by hand. A component is
trusted if a trusted user owns it and no other user can write it. In a sticky directory (``/tmp``)
others may create entries, but not replace those of a trusted user: so a path that ends there with
a missing entry is theirs to make.

What is on a read-only file system cannot be written, whatever its owner and mode: containers mount
secrets and settings so.
"""

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Symbolic links in one path, as the kernel counts them (path_resolution(7)).
MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Trust:
    """The users whose files are trusted, and the groups that may read secrets."""

    users: frozenset[int]
    groups: frozenset[int]

    @classmethod
    def of_this_process(cls) -> "Trust":
        """Return the trust of a serving process: root, its own user, and its own groups."""
        groups = {os.getegid(), *os.getgroups()}
        return cls(frozenset({0, os.geteuid()}), frozenset(groups))

    def with_owner_of(self, directory: Path) -> "Trust":
        """Return the trust that root has in the service whose directory this is.

        Root examines files for a service that runs as another user: the owner of `directory`, whose
        primary group may read the secrets.
        """
        try:
            owner = directory.stat().st_uid
            groups = {pwd.getpwuid(owner).pw_gid}
        except (OSError, KeyError):
            return self
        return Trust(self.users | {owner}, self.groups | groups)


@dataclass(frozen=True, slots=True)
class Weakness:
    """A component of a path that another user could change: where, why, and a command."""

    path: Path
    message: str
    hint: str


def weak_owners(path: Path, trust: Trust) -> Iterator[Weakness]:
    """Yield what lets another user replace `path`: owners of components, modes of directories.

    The mode of `path` itself is left to the caller, which knows what it must be. A path that does
    not exist is examined as far as it exists, and must not be another user's to make.
    """
    links = 0
    rest = list(path.absolute().parts[1:])
    here = Path("/")
    while True:
        try:
            found = here.lstat()
        except FileNotFoundError:
            yield from _weak_place(here, trust)
            return
        except OSError:
            return
        writable = not _is_read_only(here)
        if writable and found.st_uid not in trust.users:
            yield Weakness(
                here,
                f"belongs to {_user(found.st_uid)}, expected root or the user of Callgate",
                f"Run: chown -h root {shlex.quote(str(here))}",
            )
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MAX_LINKS:
                return
            target = here.readlink()
            rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
            here = Path("/") if target.is_absolute() else here.parent
            continue
        if rest and writable and stat.S_ISDIR(found.st_mode):
            yield from _weak_directory(here, found, trust)
        if not rest:
            return
        part = rest.pop(0)
        here = here.parent if part == ".." else here / part


def is_secret(found: os.stat_result, trust: Trust) -> bool:
    """Return whether a file is closed to other users.

    Its group may read it if the process is in that group (``ssl-cert``, systemd's credentials), and
    do more if the group has trusted users only (fsGroup of Kubernetes, a user's own group).
    """
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        return False
    if mode & 0o030:
        return is_private_group(found.st_gid, trust)
    return not mode & 0o040 or found.st_gid in trust.groups


def is_closed_directory(found: os.stat_result, trust: Trust) -> bool:
    """Return whether other users cannot write into a directory."""
    mode = stat.S_IMODE(found.st_mode)
    return not mode & 0o002 and not (mode & 0o020 and not is_private_group(found.st_gid, trust))


def _weak_directory(path: Path, found: os.stat_result, trust: Trust) -> Iterator[Weakness]:
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_ISVTX:
        return
    if not is_closed_directory(found, trust):
        yield Weakness(
            path,
            f"other users can replace what is in this directory (mode {mode:04o})",
            f"Run: chmod go-w {shlex.quote(str(path))}",
        )


def _weak_place(missing: Path, trust: Trust) -> Iterator[Weakness]:
    """Yield a weakness if other users can make what is missing, in a sticky directory.

    Any other directory that they can write was named already.
    """
    parent = missing.parent
    found = parent.lstat()
    if not found.st_mode & stat.S_ISVTX or is_closed_directory(found, trust):
        return
    yield Weakness(
        missing,
        f"does not exist, and other users can make it (mode {stat.S_IMODE(found.st_mode):04o} "
        f"of {parent})",
        f"Choose a place below a directory of your own, or run: mkdir -m 700 "
        f"{shlex.quote(str(missing))}",
    )


def is_private_group(gid: int, trust: Trust) -> bool:
    """Return whether a group has trusted users only: root's, or a user's own (umask 002)."""
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(gid).gr_mem}
    except KeyError:
        return False
    members |= {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    return members <= trust.users


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"
