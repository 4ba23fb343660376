"""A supervisor in a process of its own, with a tiny server in place of the gate.

``python -m tests.runtime.supervision.supervised DIRECTORY PORT PROCESSES PATIENCE``. Each serving
process answers every connection with its slot, its process id, and what stands in
``DIRECTORY/settings`` at its start, and then closes it. Files in the directory tell it what to do:
settings that begin with ``broken`` make it leave with 7, ``hang`` before it is ready makes it wait,
and ``stubborn`` makes it ignore that it is told to end; settings ``patience=0.5`` make it say that
it ends within that time. Settings ``refused N`` make it announce N problems and leave with 2,
``partly`` that it serves but something is not in force.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

from proxy.errors import Problem
from proxy.runtime.supervision.announcement import Announcement, Report, failure
from proxy.runtime.supervision.status_file import StatusFile
from proxy.runtime.supervision.supervisor import Supervisor
from proxy.runtime.supervision.systemd_notify import SystemdNotifier
from proxy.runtime.supervision.worker_process import RETIRE, WorkerSlot
from proxy.telemetry.logging import configure_logging


def _problems(settings: str) -> list[Problem]:
    return [
        Problem(f"settings:{n}", f"is wrong {'x' * 500}", "Write it otherwise.")
        for n in range(int(settings.split()[1]))
    ]


def _report(settings: str) -> Report:
    if not settings.startswith("partly"):
        return Report()
    return Report(unapplied=(Problem("listeners", "has another port", "Restart it."),))


def main(directory: Path, port: int, processes: int, patience: float) -> int:
    """Supervise; the exit code."""
    configure_logging("info", "json")

    def serve(slot: WorkerSlot) -> int:
        settings = (directory / "settings").read_text()
        if settings.startswith("broken"):
            return 7
        if settings.startswith("refused"):
            slot.announce(failure(_problems(settings)))
            return 2
        while (directory / "hang").exists():
            time.sleep(0.01)
        told: list[str] = []
        for number in (signal.SIGTERM, signal.SIGINT, RETIRE):
            signal.signal(number, lambda number, _: told.append(signal.Signals(number).name))
        slot.listening[0].listen()
        seconds = (
            float(settings.partition("=")[2]) if settings.startswith("patience=") else patience
        )
        slot.announce(Announcement(shutdown_timeout=seconds, report=_report(settings)))
        while not told or (directory / "stubborn").exists():
            if select.select([slot.listening[0]], [], [], 0.02)[0]:
                try:
                    client, _ = slot.listening[0].accept()
                except BlockingIOError:
                    continue
                client.sendall(f"{slot.slot} {os.getpid()} {settings}".encode())
                client.close()
        with (directory / "ended").open("a") as ended:
            ended.write(f"{os.getpid()} {told[0]}\n")
        return 0

    return Supervisor(
        [("127.0.0.1", port)],
        processes,
        serve,
        StatusFile(directory / "status"),
        shutdown_timeout=patience,
        notifier=SystemdNotifier.from_environment(os.environ),
    ).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
