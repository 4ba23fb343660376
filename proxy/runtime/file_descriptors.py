"""File descriptors: takes as many as the system permits, and reserves enough for the proxy itself.

A client connection costs one. If clients had all of them, the journal could not begin a segment or
write a checkpoint, and no call would get a connection to its upstream. A few hundred idle
connections would then stop all calls. So clients never get more than the process can spare.
"""

import resource
from collections.abc import Iterable

import structlog

from proxy.errors import ConfigError, Problem

# Descriptors reserved for the journal, keys, logs, metrics and libraries; an idle process has 20.
_RESERVED = 64
# Client connections below which serving makes no sense.
_MIN_CLIENTS = 16

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def max_clients(wanted: int, upstreams: Iterable[int]) -> int:
    """Return how many clients may be connected: `wanted`, or fewer if descriptors are short.

    `upstreams` holds the limit of connections to each upstream. The soft limit of this process is
    raised to the hard limit where that is permitted.

    Raises:
        ConfigError: too few descriptors are left for clients.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A filter of system calls forbids it, or the kernel gives no process that many.
    except (OSError, ValueError):
        hard = soft
    if hard == resource.RLIM_INFINITY:
        return wanted
    reserved = _RESERVED + sum(upstreams)
    if hard - reserved < _MIN_CLIENTS:
        message = f"the limit is {hard}, and the proxy itself needs {reserved}"
        hint = "Raise LimitNOFILE= of the unit (ulimit -n), or lower upstreams.max_connections."
        raise ConfigError([Problem("open files", message, hint)])
    if hard - reserved < wanted:
        _log.warning(
            "fewer client connections than limits.max_connections: open files are limited",
            open_files=hard,
            clients=hard - reserved,
        )
    return min(wanted, hard - reserved)
