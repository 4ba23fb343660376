"""``callgate audit``: read, check and report on the audit log.

One module a verb; `archive` alone changes anything.
"""

from proxy.cli.audit import (
    archive,
    export,
    find_secret,
    key,
    prove,
    query,
    report,
    show,
    stats,
    tail,
    verify,
)
from proxy.cli.audit.common import app

__all__ = [
    "app",
    "archive",
    "export",
    "find_secret",
    "key",
    "prove",
    "query",
    "report",
    "show",
    "stats",
    "tail",
    "verify",
]
