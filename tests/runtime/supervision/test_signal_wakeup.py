import os
import subprocess
import sys

from tests.support.paths import ROOT

PROGRAM = """
import os, select, signal
from proxy.runtime.supervision.signal_wakeup import SignalWakeup
from proxy.runtime.supervision.worker_process import RETIRE
signals = SignalWakeup()
assert signals.read() == b""
signals.heed()
for number in (signal.SIGHUP, RETIRE, signal.SIGTERM):
    os.kill(os.getpid(), number)
assert select.select([signals], [], [], 5)[0]
print(list(signals.read()), list(signals.read()))
signals.close()
"""


def test_signals_are_bytes_in_the_order_of_their_coming() -> None:
    """Orders are read once each; what is meant for serving processes is ignored."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "[1, 15] []\n"
