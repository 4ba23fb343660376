"""Callgate: an identity-aware reverse proxy in front of workflow schedulers. Start reading at
`proxy.gate.pipeline`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("callgate")
except PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "0+checkout"
