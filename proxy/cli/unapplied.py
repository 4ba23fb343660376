"""What of changed settings a reload cannot put in force, one problem for each key.

The supervisor holds the sockets and the number of processes. `callgate reload` finds it by its
status file, in the directory of the journal. So those keep the values of the start, and everything
else is read anew by every generation.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.overrides import PREFIX
from proxy.errors import Problem

if TYPE_CHECKING:
    from proxy.config.loading import Settings
    from proxy.config.model import Listener

RESTART = "Restart Callgate to apply it."

PINNED = ("listeners[].address", "listeners[].port", "processes", "audit.directory", "audit.name")
"""The keys that keep the value of the start. `unapplied` reports a change of each."""


def pinned(first: "Settings", now: "Settings") -> "Settings":
    """Return the settings that a process of a supervisor that began with `first` serves with."""
    audit = {"directory": first.audit.directory, "name": first.audit.name}
    return now.model_copy(
        update={
            "listeners": _on_open_sockets(first, now),
            "processes": first.processes,
            "audit": now.audit.model_copy(update=audit),
        }
    )


def unapplied(
    first: "Settings", now: "Settings", *, log_origin: str, max_clients: int
) -> Iterator[Problem]:
    """Yield what `now` asks for and a process that began with `pinned` settings does not do.

    `log_origin` and `max_clients` are what the process has.
    """
    ours = {(each.address, each.port) for each in first.listeners}
    asked = {(each.address, each.port) for each in now.listeners}
    changes = [f"{host} port {port} is not listened on" for host, port in sorted(asked - ours)]
    changes += [f"{host} port {port} is still listened on" for host, port in sorted(ours - asked)]
    if changes:
        yield Problem("listeners", ", ".join(changes), RESTART)
    if first.processes != now.processes:
        message = f"{first.processes} serve, and the settings ask for {now.processes}"
        yield Problem("processes", message, RESTART)
    for key in ("directory", "name"):
        had, wanted = getattr(first.audit, key), getattr(now.audit, key)
        if had != wanted:
            yield Problem(f"audit.{key}", f"the journal stays with {had}", RESTART)
    prefix = log_origin.rpartition("/")[0]
    if prefix != now.audit.origin_prefix:
        message = f"the log keeps the origin that it began with, {log_origin}"
        hint = "Keep the old prefix, or choose another audit.name and restart Callgate."
        yield Problem("audit.origin_prefix", message, hint)
    wanted = now.limits.max_connections
    if max_clients < wanted != first.limits.max_connections:
        message = f"open files are limited, so {max_clients} clients may connect and not {wanted}"
        hint = "Raise LimitNOFILE= of the unit (ulimit -n), and restart Callgate."
        yield Problem("limits.max_connections", message, hint)


def overrides_unseen(pid: int, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Yield the overrides in `environ` that the process `pid` was not started with.

    A process keeps the environment of its start.
    """
    try:
        data = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return  # another user's process
    theirs = dict(entry.split("=", 1) for entry in data.split("\0") if "=" in entry)
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX) and theirs.get(name) != value:
            message = "is not what the running Callgate was started with"
            yield Problem(f"environment: {name}", message, RESTART)


def _on_open_sockets(first: "Settings", now: "Settings") -> "tuple[Listener, ...]":
    """Return a listener for each of the supervisor's sockets, in their order.

    A reload can change the certificate of an address, not the addresses. A socket whose address the
    settings no longer have keeps the listener that it was bound for; with another one's settings
    it might answer without TLS.
    """
    by_address = {(each.address, each.port): each for each in now.listeners}
    return tuple(by_address.get((each.address, each.port), each) for each in first.listeners)
