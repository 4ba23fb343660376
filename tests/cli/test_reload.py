import os
import signal
from pathlib import Path

import pytest

from proxy.cli.main import main
from proxy.errors import Problem
from proxy.runtime.supervision.announcement import Report
from proxy.runtime.supervision.status_file import Status, StatusFile
from tests.support.installation import install


class Supervisor:
    """A supervisor's status file, which is written when the signal comes."""

    def __init__(
        self, directory: Path, after: Status | None, report: Report | None, config: str
    ) -> None:
        self.file = StatusFile(directory / "audit" / "gate.status")
        self.file.write(Status(os.getpid(), generation=1, config=config))
        self.after = after
        self.report = report
        self.previous = signal.signal(signal.SIGHUP, self.reload)

    def reload(self, _number: int, _frame: object) -> None:
        """Write the result of the reload, or end."""
        if self.after is None:
            self.file.release()
        else:
            self.file.write(self.after, self.report)

    def close(self) -> None:
        """Put the handler back."""
        signal.signal(signal.SIGHUP, self.previous)
        if self.after is not None:
            self.file.release()


def reload(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    after: Status | None,
    report: Report | None = None,
    config: str = "",
) -> tuple[int, str, str]:
    """Run ``callgate reload`` against a supervisor; return exit code, output and errors."""
    directory.mkdir(exist_ok=True)
    install(directory)
    supervisor = Supervisor(directory, after, report, config)
    try:
        with pytest.raises(SystemExit) as left:
            main(["reload", "--config", str(directory / "callgate.toml")])
    finally:
        supervisor.close()
    assert isinstance(left.value.code, int)
    return left.value.code, *capsys.readouterr()


def finished(exit_code: int, unapplied: int = 0) -> Status:
    """Return the status after one reload."""
    return Status(
        os.getpid(),
        generation=1 if exit_code else 2,
        reloads_started=1,
        reloads_finished=1,
        last_exit_code=exit_code,
        unapplied=unapplied,
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


def test_the_reasons_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Location, message and hint of each, and how many there was no room for."""
    problems = tuple(Problem(f"a.cedar:{n}", "is wrong", "Write it otherwise.") for n in (3, 7))
    code, output, errors = reload(tmp_path, capsys, finished(2), Report(problems, omitted=5))
    assert (code, output) == (1, "")
    assert "a.cedar:3: is wrong\n    Write it otherwise.\na.cedar:7: is wrong\n" in errors
    assert "5 more: see the log" in errors


def test_reasons_that_could_not_be_written_are_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reload is not called a success for want of a report."""
    code, _, errors = reload(tmp_path, capsys, finished(2))
    assert code == 1 and "not in the status file: see the log" in errors
    code, _, errors = reload(tmp_path / "again", capsys, finished(0, unapplied=3))
    assert code == 1 and "3 more: see the log" in errors


def test_what_needs_a_restart_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new generation serves, but a script must not take that for all that was asked for."""
    report = Report(unapplied=(Problem("processes", "2 serve", "Restart Callgate."),))
    code, output, errors = reload(tmp_path, capsys, finished(0, unapplied=1), report)
    assert (code, output) == (1, "reloaded: generation 2 is serving\n")
    assert errors == "callgate: not in force yet:\nprocesses: 2 serve\n    Restart Callgate.\n"


def test_an_override_that_the_running_gate_does_not_have_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of the command is not that of the supervisor."""
    monkeypatch.setenv("CALLGATE__PROCESSES", "3")
    code, _, errors = reload(tmp_path, capsys, finished(0), Report())
    assert code == 1 and "environment: CALLGATE__PROCESSES" in errors


def test_another_settings_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The supervisor reads the file of its start, so nothing of this one would be in force. The
    same file by another name is the same.
    """
    other = tmp_path / "other.toml"
    code, output, errors = reload(tmp_path, capsys, finished(0), config=str(other))
    assert (code, output) == (2, "")
    assert f"the running Callgate reads {other}" in errors
    (tmp_path / "again").mkdir()
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "again" / "callgate.toml")
    assert reload(tmp_path / "again", capsys, finished(0), Report(), str(link))[0] == 0


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
