"""``python -m tests.fuzz --seconds N [TARGET …]``: fuzz the targets in turn, for equal times.

Every target runs in a process of its own, since atheris ends its process. It starts from the stored
cases, and writes an input that violates a property to ``tests/fuzz/found/<target>/``, where
`test_replay` finds it. The exit code is 1 when something was found.
"""

# ruff: noqa: T201  (a command line prints)
import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.kit import FOUND, TARGETS, cases, load

# Memory and time of one case; a case above them counts as found.
_MEMORY_MIB = 1024
_CASE_SECONDS = 10
_INPUT_BYTES = 16_384
_GRACE_SECONDS = 60  # to start, and to run the stored cases once


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Fuzz everything that parses input from outside.",
    )
    parser.add_argument("--seconds", type=int, default=60, help="the time for all targets together")
    parser.add_argument(
        "--corpus", type=Path, help="a directory to keep what adds coverage in, for the next time"
    )
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default"
    )
    given = parser.parse_args()
    if find_spec("atheris") is None:
        parser.exit(2, "atheris is not installed, and fuzzing needs it. Run: make fuzz\n")
    if given.child:
        fuzz(given.child[0], given.child[1:])
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    targets = given.targets or TARGETS
    share = max(1, given.seconds // len(targets))
    found = [target for target in targets if not run(target, share, given.corpus)]
    if found:
        print(
            f"found something in: {', '.join(found)}. The cases are in tests/fuzz/found/; see python -m pytest tests/fuzz."
        )
    return 1 if found else 0


def run(target: str, seconds: int, corpus: Path | None) -> bool:
    """Fuzz one target; return whether every property held."""
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    before = set(cases(target))
    with tempfile.TemporaryDirectory() as scratch:
        start, more = (
            Path(scratch) / "start",
            Path(scratch) / "new" if corpus is None else corpus / target,
        )
        start.mkdir()
        more.mkdir(parents=True, exist_ok=True)
        for case in before:
            shutil.copy(case, start / case.name)  # atheris must not write next to the originals
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={found}/",
            f"-rss_limit_mb={_MEMORY_MIB}",
            f"-timeout={_CASE_SECONDS}",
        ]
        options += [
            f"-max_len={_INPUT_BYTES}",
            "-print_final_stats=1",
            "-verbosity=0",
            "-close_fd_mask=0",
            str(more),
            str(start),
        ]
        command = [sys.executable, "-m", "tests.fuzz", "--child", target, *options]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE_SECONDS,
            check=False,
            errors="replace",
        )
    executed = next(
        (
            line.split()[-1]
            for line in ran.stderr.splitlines()
            if "number_of_executed_units" in line
        ),
        "?",
    )
    print(
        f"{target:16} {seconds:5} s {executed:>10} inputs   {'held' if ran.returncode == 0 else 'BROKEN'}",
        flush=True,
    )
    if ran.returncode:
        print(
            ran.stdout[-3000:],
            ran.stderr[-3000:],
            *sorted(set(cases(target)) - before),
            sep="\n",
            flush=True,
        )
    return ran.returncode == 0


def fuzz(target: str, options: list[str]) -> None:
    """Fuzz one target in this process; never return."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install 'callgate[fuzz]'")
    sys.setrecursionlimit(1000 + 200)  # the instrumentation adds frames
    with atheris.instrument_imports(include=["proxy"]):
        one = load(target)
    atheris.Setup([target, *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
