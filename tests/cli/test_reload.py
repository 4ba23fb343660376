import os
import signal
from pathlib import Path

import pytest

from proxy.cli.main import main
from proxy.runtime.supervision.status_file import Status, StatusFile
from tests.support.installation import install


class Supervisor:
    """A supervisor's status file, which is written when the signal comes."""

    def __init__(self, directory: Path, after: Status | None) -> None:
        self.file = StatusFile(directory / "audit" / "gate.status")
        self.file.write(Status(os.getpid(), generation=1))
        self.after = after
        self.previous = signal.signal(signal.SIGHUP, self.reload)

    def reload(self, _number: int, _frame: object) -> None:
        """Write the result of the reload, or end."""
        if self.after is None:
            self.file.release()
        else:
            self.file.write(self.after)

    def close(self) -> None:
        """Put the handler back."""
        signal.signal(signal.SIGHUP, self.previous)
        if self.after is not None:
            self.file.release()


def reload(
    directory: Path, capsys: pytest.CaptureFixture[str], after: Status | None
) -> tuple[int, str, str]:
    """Run ``callgate reload`` against a supervisor; return exit code, output and errors."""
    install(directory)
    supervisor = Supervisor(directory, after)
    try:
        with pytest.raises(SystemExit) as left:
            main(["reload", "--config", str(directory / "callgate.toml")])
    finally:
        supervisor.close()
    assert isinstance(left.value.code, int)
    return left.value.code, *capsys.readouterr()


def finished(exit_code: int) -> Status:
    """Return the status after one reload."""
    return Status(
        os.getpid(),
        generation=1 if exit_code else 2,
        reloads_started=1,
        reloads_finished=1,
        last_exit_code=exit_code,
    )


def test_a_reload_that_succeeds_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output names the generation."""
    assert reload(tmp_path, capsys, finished(0)) == (
        0,
        "reloaded: generation 2 is serving\n",
        "",
    )


def test_a_reload_that_fails_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The previous processes are still serving, and the message says so."""
    code, output, errors = reload(tmp_path, capsys, finished(2))
    assert (code, output) == (1, "")
    assert "reload failed" in errors
    assert "the previous ones are still serving" in errors


def test_a_gate_that_ends_meanwhile_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the reload would have succeeded is unknown."""
    code, output, errors = reload(tmp_path, capsys, None)
    assert (code, output) == (2, "")
    assert "ended during the reload" in errors


def test_no_running_gate_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to reload."""
    install(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["reload", "--config", str(tmp_path / "callgate.toml")])
    assert left.value.code == 2
    assert "callgate serve" in capsys.readouterr().err
