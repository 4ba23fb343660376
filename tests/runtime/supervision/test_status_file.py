"""The file by which a reload finds a running gate."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.errors import Problem
from proxy.runtime.supervision.announcement import Report
from proxy.runtime.supervision.status_file import (
    Status,
    StatusFile,
    StatusFileLockedError,
    read_report,
    read_status,
    signal_supervisor,
)
from tests.support.other_user import NOBODY, as_root
from tests.support.paths import ROOT


def test_what_is_written_is_read_while_the_file_is_held(tmp_path: Path) -> None:
    """A later version replaces an earlier one, also a shorter one; the file is its owner's alone."""
    path = tmp_path / "status"
    file = StatusFile(path)
    for status in (Status(1), Status(2**22, 123456, 99, 98, 255), Status(7, 1)):
        file.write(status)
        assert read_status(path) == status
    assert path.stat().st_mode & 0o777 == 0o600
    file.release()


PROBLEM = Problem("a.cedar:3", "there is no such action", "Name one.")


def test_the_report_of_the_last_reload_is_read(tmp_path: Path) -> None:
    """Each belongs to its own status: that of an earlier reload is never taken for the present
    one's.
    """
    path = tmp_path / "status"
    file = StatusFile(path)
    file.write(Status(1, 1, 1, 0))
    begun = read_status(path)
    assert begun is not None and read_report(path, begun) is None
    file.write(Status(1, 1, 1, 1, 2), Report((PROBLEM,)))
    first = read_status(path)
    assert first is not None and read_report(path, first) == Report((PROBLEM,))
    file.write(Status(1, 2, 2, 2), Report())
    second = read_status(path)
    assert second is not None and read_report(path, second) == Report()
    assert read_report(path, first) is None
    file.release()


def test_everything_is_written_in_place(tmp_path: Path) -> None:
    """The file has its size from the beginning, so a full disk takes the longest report."""
    path = tmp_path / "status"
    file = StatusFile(path)
    before = path.stat()
    assert before.st_blocks * 512 >= before.st_size > 0
    many = Report(tuple(Problem(f"file:{n}", "x" * 900, "Do it.") for n in range(200)))
    file.write(Status(1, 1, 1, 1, 2, config="/" + "long/" * 500), many)
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_blocks) == (
        before.st_ino,
        before.st_size,
        before.st_blocks,
    )
    status = read_status(path)
    assert status is not None and status.config.startswith("/long")
    report = read_report(path, status)
    assert report is not None and len(report.problems) + report.omitted == 200
    file.release()


def test_a_report_that_cannot_be_written_leaves_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that copies on write may have no room after all: the status says that there is
    no report.
    """
    path = tmp_path / "status"
    file = StatusFile(path)
    write = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    file.write(Status(1, 1, 1, 1, 2), Report((PROBLEM,)))
    status = read_status(path)
    assert status is not None and status == Status(1, 1, 1, 1, 2)
    assert read_report(path, status) is None
    file.release()


def test_a_disk_without_room_for_the_file_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short write is no success, and the lock is not kept."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 100)
        with pytest.raises(OSError, match="No space left"):
            StatusFile(tmp_path / "status")
    StatusFile(tmp_path / "status").release()


def test_the_longest_name_of_a_settings_file_does_no_harm(tmp_path: Path) -> None:
    """A name that does not fit into a page is left out."""
    path = tmp_path / "status"
    file = StatusFile(path)
    file.write(Status(1, 1, config="/" + "é" * 2000))
    status = read_status(path)
    assert status is not None and (status.generation, status.config) == (1, "")
    file.release()


def test_no_gate_no_status(tmp_path: Path) -> None:
    """Without a file, with one that was left, and with what a killed gate wrote, there is no gate
    to tell anything.
    """
    path = tmp_path / "status"
    assert read_status(path) is None
    file = StatusFile(path)
    assert read_status(path) is None, "nothing is said yet"
    file.write(Status(os.getpid(), 1))
    file.close()  # as the kernel does for a process that is killed
    assert path.stat().st_size > 0
    assert read_status(path) is None
    file = StatusFile(path)
    file.write(Status(1))
    file.release()
    file.release()
    assert read_status(path) is None


def test_what_a_killed_gate_wrote_is_not_said_by_the_next(tmp_path: Path) -> None:
    """Its process id may be anybody's by now, and a reload would send that a signal."""
    path = tmp_path / "status"
    killed = StatusFile(path)
    killed.write(Status(os.getpid(), 3, 2, 2))
    killed.close()  # as the kernel does for a process that is killed
    file = StatusFile(path)
    assert read_status(path) is None
    file.release()


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    """A second one is refused, until the first has left."""
    first = StatusFile(tmp_path / "status")
    with pytest.raises(StatusFileLockedError):
        StatusFile(tmp_path / "status")
    first.release()
    StatusFile(tmp_path / "status").release()


def test_readers_keep_nobody_from_beginning(tmp_path: Path) -> None:
    """One who asks all the time whether a gate runs (`callgate reload`, a script that waits for it)
    is no gate.
    """
    path = tmp_path / "status"
    path.touch()
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from proxy.runtime.supervision.status_file import read_status\n"
        "print(flush=True)\n"
        "while not read_status(Path(sys.argv[1])): pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], cwd=ROOT, stdout=subprocess.PIPE
    ) as reader:
        try:
            assert reader.stdout is not None
            reader.stdout.readline()
            for _ in range(1000):
                StatusFile(path).release()
            assert reader.poll() is None
        finally:
            reader.kill()


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    """Whoever may write the directory cannot have the supervisor write elsewhere."""
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "status").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        StatusFile(tmp_path / "status")


def test_a_pipe_in_its_place_keeps_no_reader_waiting(tmp_path: Path) -> None:
    """Root's `reload` reads a directory of the service, which may have been broken into."""
    os.mkfifo(tmp_path / "status", 0o600)
    assert read_status(tmp_path / "status") is None


def sleeper() -> subprocess.Popen[bytes]:
    """Return a process that a signal would end."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_only_a_supervisor_that_holds_the_file_is_signalled(tmp_path: Path) -> None:
    """A file that was left names a process that may be another program by now."""
    path = tmp_path / "status"
    with sleeper() as process:
        file = StatusFile(path)
        file.write(Status(process.pid, 1))
        file.close()
        assert signal_supervisor(path, signal.SIGTERM) is None
        assert process.poll() is None
        process.kill()


@as_root
def test_the_owner_of_a_forged_file_cannot_have_the_processes_of_others_signalled(
    tmp_path: Path,
) -> None:
    """Root's reload must not become a way to signal any process."""
    path = tmp_path / "status"
    with sleeper() as process:
        file = StatusFile(path)
        file.write(Status(process.pid, 1))
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(PermissionError, match="is not of the user"):
            signal_supervisor(path, signal.SIGTERM)
        assert process.poll() is None
        os.chown(path, 0, 0)
        before = signal_supervisor(path, signal.SIGTERM)
        assert before == Status(process.pid, 1)
        assert process.wait(20) == -signal.SIGTERM
        assert signal_supervisor(path, signal.SIGTERM) is None
        file.release()
