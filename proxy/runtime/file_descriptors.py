"""File descriptors: as many as the system lets this process have, and enough of them kept back from
clients.

A client costs one. Were all of them clients', the journal could not begin a segment or write a
checkpoint, so that nothing would be forwarded, and no call would find a connection to its upstream:
a few hundred idle connections would do what the limits on connections are there to prevent. So
there are never more places for clients than the process has to spare.
"""

import resource
from collections.abc import Iterable

import structlog

from proxy.errors import ConfigError, Problem

# for the journal, keys, logs, metrics and whatever a library opens for a moment; at rest it has
# about 20
_OWN = 64
_LEAST = 16  # places for clients below which it makes no sense to serve

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def places_for_clients(wanted: int, upstreams: Iterable[int]) -> int:
    """How many clients may be connected at once: `wanted`, or as many as there are descriptors for.

    `upstreams` are the most connections to each upstream. The soft limit of this process is raised
    to the hard one, if that may be. Raises `ConfigError` when too few are left for clients.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # a filter of system calls, or more than the kernel gives any process
    except (OSError, ValueError):
        hard = soft
    if hard == resource.RLIM_INFINITY:
        return wanted
    kept = _OWN + sum(upstreams)
    if hard - kept < _LEAST:
        what = f"the system allows this process {hard} open files, and {kept} are needed beside those of clients"
        raise ConfigError(
            [
                Problem(
                    "open files",
                    what,
                    "Raise LimitNOFILE= of the unit (ulimit -n), or lower upstreams.max_connections.",
                )
            ]
        )
    if hard - kept < wanted:
        _log.warning(
            "fewer clients than limits.max_connections: open files are limited",
            open_files=hard,
            clients=hard - kept,
        )
    return min(wanted, hard - kept)
