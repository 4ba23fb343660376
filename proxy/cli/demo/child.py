"""One process of the demo: it ends when the demo does, however the demo ends.

Run as a file of its own (``python -P demo_child.py luigid …``), so it imports nothing of Callgate.
It asks the kernel for SIGTERM on the death of its parent (prctl(2), PR_SET_PDEATHSIG), so that even
``kill -9`` of the demo leaves nothing behind.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the process `parent` is gone; leave at once when it is gone
    already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def luigid(arguments: list[str]) -> None:
    """Run a real luigid."""
    from luigi.cmdline import luigid as run

    run(arguments)  # type: ignore[no-untyped-call]  # luigi ships no types


def supervisord(arguments: list[str]) -> None:
    """Run a real supervisord."""
    from supervisor.supervisord import main as run

    run(arguments)


def program(arguments: list[str]) -> None:
    """Be a program for supervisord to look after: say once a minute that all is well, and do
    nothing else.
    """
    end_with_parent(os.getppid())  # the parent is supervisord here
    while True:
        print(f"{arguments[0]}: nothing to do", flush=True)
        time.sleep(60)


def main() -> None:
    """Read what to be, and whose child."""
    kind, *arguments = sys.argv[1:]
    if kind == "program":
        program(arguments)
        return
    parent, *arguments = arguments
    end_with_parent(int(parent))
    sys.argv = [kind, *arguments]
    {"luigid": luigid, "supervisord": supervisord}[kind](arguments)


if __name__ == "__main__":
    main()
