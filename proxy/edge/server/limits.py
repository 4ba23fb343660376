"""Bounds on what one client may use, and the timing of the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one client, in bytes and seconds. The defaults are those of the settings.

    Up to `early_bytes` of a body are read before the caller is identified. The rest stays in the
    socket until then.
    """

    header_bytes: int = 65_536
    body_bytes: int = 16_777_216
    early_bytes: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Periods and grace periods of a server, in seconds. They are no settings.

    Attributes:
        sweep: Between two checks of all deadlines, and so the precision of every deadline.
        linger: For a refused client that is still sending, to take the response (RFC 9112 9.6).
        close: For the peer's half of a TLS close.
        first_byte: For the first bytes of a client that connected just before a drain.
        drain_idle: After which an idle connection is closed while draining.
        abort: For the tasks of aborted streams to end.

    """

    sweep: float = 0.5
    linger: float = 2.0
    close: float = 2.0
    first_byte: float = 1.0
    drain_idle: float = 2.0
    abort: float = 1.0
