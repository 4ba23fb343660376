"""Freed memory goes back to the system, whatever was freed before."""

import subprocess
import sys

from tests.support.paths import ROOT

# Large blocks are freed, then others of their size are made behind one that stays.
SCRIPT = """
import re, sys
from pathlib import Path
from proxy.runtime.event_loop.allocator import return_large_blocks
def resident():
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\\s+(\\d+)", text)[1]) >> 10
assert return_large_blocks() or sys.argv[1] == "no"
for _ in range(3):
    before = resident()
    made = [b"x" * (16 << 20) for _ in range(8)]
    pins = [bytearray(4096) for _ in range(64)]
    del made
print(resident() - before)
"""


def test_the_memory_of_large_blocks_is_given_back() -> None:
    """A process that has held 128 MiB three times holds hardly any of it afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ""], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16
