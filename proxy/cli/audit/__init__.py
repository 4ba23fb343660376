"""``callgate audit``: read, check and report on the invocation log. One module a verb; only
`archive` changes anything.
"""

from proxy.cli.audit import archive, export, key, prove, query, report, show, tail, verify
from proxy.cli.audit.common import app

__all__ = ["app", "archive", "export", "key", "prove", "query", "report", "show", "tail", "verify"]
