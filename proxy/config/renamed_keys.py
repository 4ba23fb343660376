"""Keys that had another name in an earlier version, and what they are called now.

An old key is refused, never read: two names for one setting could contradict each other.
"""

RENAMED_KEYS = {
    "audit.secret_names": "redact_arguments",
    "audit.site": "origin_prefix",
    "audit.text_bytes": "max_text_bytes",
    "issuers.audience": "audiences",
    "limits.batch_calls": "max_batch_calls",
    "limits.connections": "max_connections",
    "limits.in_flight": "max_in_flight",
    "upstreams.authorization": "basic_auth",
    "upstreams.connect_seconds": "connect_timeout_seconds",
    "upstreams.connections": "max_connections",
    "upstreams.first_byte_seconds": "response_timeout_seconds",
    "upstreams.idle_seconds": "read_timeout_seconds",
    "upstreams.path": "upstream_path",
    "upstreams.prefix": "path_prefix",
}
"""By table and old key, without row numbers."""
