"""Whether other users of this machine could change or replace a file, or read a secret one.

A mode alone does not tell. The owner of a file can change its mode, the owner of a directory can
replace what is in it, and a symbolic link leads wherever its owner likes. So every component of a
path is examined, from the root down, and every symbolic link is followed by hand. A component is
trusted if a trusted user owns it and no other user can write it. In a sticky directory (``/tmp``)
others may create entries, but not replace those of a trusted user: so a path that ends there with
a missing entry is theirs to make.

An access control list (acl(5)) hides behind the bits of the group, which are then its mask: what it
grants to named users and groups counts as well.

What is on a read-only file system cannot be written, whatever its owner and mode: containers mount
secrets and settings so.
"""

import grp
import os
import pwd
import shlex
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Symbolic links in one path, as the kernel counts them (path_resolution(7)).
MAX_LINKS = 40
_ACL = "system.posix_acl_access"
# Tags of its entries (acl_ea.h), and permissions.
_NAMED_USER, _NAMED_GROUP, _MASK = 0x02, 0x08, 0x10
_READ, _WRITE, _ANY = 4, 2, 7


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


def is_secret(file: Path | int, trust: Trust) -> bool:
    """Return whether a file or an open descriptor is closed to other users. Raises `OSError`.

    Its group may read it if the process is in that group (``ssl-cert``, systemd's credentials), and
    do more if the group has trusted users only (fsGroup of Kubernetes, a user's own group).
    """
    found = os.fstat(file) if isinstance(file, int) else file.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007 or not _acl_is_closed(file, _ANY, trust):
        return False
    if mode & 0o030:
        return is_private_group(found.st_gid, trust)
    return not mode & 0o040 or found.st_gid in trust.groups


def is_closed_directory(directory: Path, trust: Trust) -> bool:
    """Return whether other users cannot write into a directory. Raises `OSError`."""
    found = directory.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o002 or (mode & 0o020 and not is_private_group(found.st_gid, trust)):
        return False
    return _acl_is_closed(directory, _WRITE, trust)


def _acl_is_closed(file: Path | int, rights: int, trust: Trust) -> bool:
    """Return whether the access control list grants none of `rights` to other users."""
    try:
        entries = list(struct.iter_unpack("<HHI", os.getxattr(file, _ACL)[4:]))
    except OSError:
        return True  # there is none
    mask = next((granted for tag, granted, _ in entries if tag == _MASK), _ANY)
    for tag, granted, who in entries:
        effective = granted & mask
        if tag not in (_NAMED_USER, _NAMED_GROUP) or not effective & rights:
            continue
        reads = effective == _READ and who in trust.groups
        if tag == _NAMED_USER and who not in trust.users:
            return False
        if tag == _NAMED_GROUP and not reads and not is_private_group(who, trust):
            return False
    return True


def _weak_directory(path: Path, found: os.stat_result, trust: Trust) -> Iterator[Weakness]:
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_ISVTX:
        return
    if not is_closed_directory(path, trust):
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
    if not found.st_mode & stat.S_ISVTX or is_closed_directory(parent, trust):
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
