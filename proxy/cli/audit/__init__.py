"""``callgate audit``: read, check and report on the invocation log. One module a verb; all of them only read."""

from proxy.cli.audit import key, tail, verify
from proxy.cli.audit.common import app

__all__ = ["app", "key", "tail", "verify"]
