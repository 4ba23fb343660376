"""Keys that had another name in an earlier version, and what they are called now.

An old key is refused, never read: two names for one setting could contradict each other.
"""

from proxy.common.toml_lines import Loc

RENAMED_KEYS = {
    "audit.secret_names": "audit.redact_arguments",
    "audit.site": "audit.origin_prefix",
    "audit.text_bytes": "audit.max_text_bytes",
    "issuers.audience": "issuers.audiences",
    "limits.batch_calls": "limits.max_batch_calls",
    "limits.connections": "limits.max_connections",
    "limits.in_flight": "limits.max_in_flight",
    "listen": "listeners",
    "listen.address": "listeners.0.address",
    "listen.plain_http": "listeners.0.plain_http",
    "listen.port": "listeners.0.port",
    "listen.processes": "processes",
    "tls": "listeners",
    "tls.certificate": "listeners.0.certificate",
    "tls.key": "listeners.0.key",
    "upstreams.authorization": "upstreams.basic_auth",
    "upstreams.connect_seconds": "upstreams.connect_timeout_seconds",
    "upstreams.connections": "upstreams.max_connections",
    "upstreams.first_byte_seconds": "upstreams.response_timeout_seconds",
    "upstreams.idle_seconds": "upstreams.read_timeout_seconds",
    "upstreams.path": "upstreams.upstream_path",
    "upstreams.prefix": "upstreams.path_prefix",
}
"""By table and key. Row numbers are left out, unless a single table became the first row."""

RENAMED_TABLES = {
    "listen": "Write [[listeners]] above its keys, and processes at the top of the file.",
    "tls": "Move certificate and key into [[listeners]].",
}
"""The hint for a table that is no table any more."""


def renamed(loc: Loc) -> Loc | None:
    """Return where the old key at `loc` is now, or None if `loc` is no old key."""
    new = RENAMED_KEYS.get(".".join(part for part in loc if isinstance(part, str)))
    if new is None:
        return None
    parts: list[str | int] = [int(part) if part.isdecimal() else part for part in new.split(".")]
    rows = [part for part in loc if isinstance(part, int)]
    return (*parts[:1], *rows, *parts[1:])
