"""The module `structlog`, imported without rich.

structlog imports rich, if it is installed, to print tracebacks with local variables. No log of
Callgate has such tracebacks: local variables may hold credentials. In a serving process rich and
pygments would be 80 modules and 3.7 MB (measured on the processes of `serve`, 54 MB). Verbs that
draw tables import rich themselves, and still find it.
"""

import sys

if "rich" in sys.modules or "structlog" in sys.modules:
    import structlog
else:
    # None is what the import system defines for a module that is not to be found.
    sys.modules["rich"] = None  # type: ignore[assignment]  # typed as modules only
    try:
        import structlog
    finally:
        del sys.modules["rich"]

__all__ = ["structlog"]
