"""`callgate demo`: a gate with real schedulers behind it."""

from proxy.cli.demo.command import EXAMPLE, command

__all__ = ["EXAMPLE", "command"]
