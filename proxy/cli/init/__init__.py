"""`callgate init`: a directory of settings that serve at once."""

from proxy.cli.init.command import EXAMPLE, command

__all__ = ["EXAMPLE", "command"]
