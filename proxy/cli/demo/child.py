"""One process of the demo. It ends when the demo does, however the demo ends.

It runs as a file of its own (``python -P child.py luigid …``) and imports nothing of Callgate. It
requests SIGTERM on the death of its parent (prctl(2), PR_SET_PDEATHSIG), so ``kill -9`` of the demo
leaves no process.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Request SIGTERM for the death of the process `parent`; exit if it is dead already."""
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
    """Run as a program of supervisord: print a line once a minute."""
    end_with_parent(os.getppid())  # supervisord
    while True:
        print(f"{arguments[0]}: nothing to do", flush=True)
        time.sleep(60)


def main() -> None:
    """Run the function that the first argument names; the second is the pid of the parent."""
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
