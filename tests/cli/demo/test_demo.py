"""The demo, run for real: what it promises to other programs, and that every command it prints
works when pasted.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.cli.demo.files import DemoFiles, write_files
from proxy.cli.file_modes import refuse_open
from proxy.config.loading import load_settings
from tests.support.paths import ROOT

PATIENCE = 90.0  # seconds, for a machine that is busy with other things


def free_ports() -> tuple[int, int]:
    """Find two ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def until(what: Callable[[], bool]) -> bool:
    """Wait until `what` holds; False when it never does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def descendants(pid: int) -> set[int]:
    """Give the processes below `pid`, as the kernel knows them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found


def runs(pid: int) -> bool:
    """Say whether a process still runs; one that nobody has reaped yet does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Demo:
    """A demo under test, started in a directory of its own as its user would."""

    process: subprocess.Popen[str]
    directory: Path
    port: int
    luigid_port: int
    printed: list[str]

    @classmethod
    def start(cls, directory: Path) -> "Demo":
        """Start one, and read what it prints until it is ready."""
        port, luigid_port = free_ports()
        environ = {
            **os.environ,
            "PORT": str(port),
            "LUIGID_PORT": str(luigid_port),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "proxy.cli.main", "demo", "--dir", ".demo"]
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if line == "ready\n":
                return cls(process, directory, port, luigid_port, printed)
        _, errors = process.communicate(timeout=PATIENCE)
        raise AssertionError(f"the demo ended with {process.returncode}: {errors}")

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def paste(self, about: str) -> subprocess.CompletedProcess[str]:
        """Run the printed command whose comment begins with `about`, in another shell of the same
        directory.
        """
        position = next(
            number
            for number, line in enumerate(self.printed)
            if line.strip().startswith(f"# {about}")
        )
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "PATH": self.path()
        }
        if "-m proxy" in self.printed[position + 1]:
            environ["PYTHONPATH"] = str(ROOT)  # Callgate is run from its sources and not installed
        return subprocess.run(
            ["bash", "-c", self.printed[position + 1]],
            cwd=self.directory,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    @staticmethod
    def path() -> str:
        """The PATH of a shell with the demo's environment active, as the demo was started with."""
        return os.environ["PATH"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Give one running demo to all tests that only look."""
    running = Demo.start(tmp_path_factory.mktemp("demo"))
    below = descendants(running.process.pid)
    yield running
    assert running.stop(signal.SIGTERM) == 0
    assert until(lambda: not any(map(runs, below)))


def test_its_files_are_where_other_programs_look_for_them(demo: Demo) -> None:
    """The contract: certificate, settings, policies, journal, worker's configuration, and a token
    for each role.
    """
    own = demo.directory / ".demo"
    for name in ("ca.pem", "callgate.toml", "luigi.cfg", "netrc"):
        assert (own / name).is_file(), name
    assert (own / "policies" / "roles.toml").is_file()
    assert list((own / "audit").rglob("*.jsonl"))
    assert {path.stem for path in (own / "tokens").iterdir()} == {
        "viewer",
        "worker",
        "operator",
        "admin",
        "agent",
        "stranger",
    }


def test_files_with_credentials_are_their_owners_alone(demo: Demo) -> None:
    """Tokens, the netrc and the TLS key have mode 0600, and the directory is closed to others."""
    own = demo.directory / ".demo"
    for path in (own / "netrc", own / "tls.key", *(own / "tokens").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert own.stat().st_mode & 0o077 == 0


def test_the_netrc_holds_the_workers_token(demo: Demo) -> None:
    """A stock worker finds its credential by the host name."""
    own = demo.directory / ".demo"
    token = (own / "tokens" / "worker.jwt").read_text().strip()
    assert (own / "netrc").read_text() == f"machine localhost login jwt password {token}\n"


def test_luigid_listens_on_this_machine_alone(demo: Demo) -> None:
    """The scheduler behind the gate has no access control: it must not be reachable from elsewhere."""
    listening = {
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    for port in (demo.port, demo.luigid_port):
        assert {place for place in listening if place.endswith(f":{port:04X}")} == {
            f"0100007F:{port:04X}"
        }


@pytest.mark.parametrize(
    ("about", "shows"),
    [
        ("A viewer may look", '"response"'),
        ("A viewer may not pause", "HTTP/1.1 403 callgate: "),
        ("An agent may not have work done again", "HTTP/1.1 403 callgate: "),
        ("A stranger", "HTTP/1.1 403 callgate: "),
        ("No token", "HTTP/1.1 401"),
        ("Load the dashboard's page", "<html"),
        ("Ask supervisord over XML-RPC", "RUNNING"),
        ("Read the audit log", "local|"),
    ],
)
def test_every_printed_command_works_when_pasted(demo: Demo, about: str, shows: str) -> None:
    """A first try that fails is the last one: each command exits with 0 and shows what its comment
    says.
    """
    done = demo.paste(about)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert "Warning" not in done.stderr, "a newcomer reads it as an error"


def test_every_printed_command_is_tried_here(demo: Demo) -> None:
    """A command that is added to the text has to be added to the tests: eight above, and the
    worker's below.
    """
    comments = [line.strip() for line in demo.printed if line.strip().startswith("# ")]
    assert len(comments) == 9


def test_the_worker_has_done_its_work(demo: Demo) -> None:
    """The pasted worker ran all five tasks through the gate, with its own exit code and summary.

    It is pasted once: its run number is the second, and a second run within the same one would find
    all done.
    """
    done = demo.paste("Run an unmodified luigi worker")
    assert done.returncode == 0, done.stderr
    assert "5 ran successfully" in done.stderr, done.stderr
    assert ":)" in done.stderr
    assert "Warning" not in done.stderr, "a newcomer reads it as an error"
    assert len(list((demo.directory / ".demo" / "output").glob("*/report.txt"))) == 1


def test_the_history_pages_work(demo: Demo) -> None:
    """luigid keeps its task history, so the pages about it have something to show."""
    line = next(line for line in demo.printed if "/api/task_list" in line and "viewer.jwt" in line)
    url = f"https://localhost:{demo.port}"
    page = line.replace(
        f"{url}/api/task_list -d 'data={{}}'", f"-o /dev/null -w '%{{http_code}}' {url}/history"
    )
    done = subprocess.run(
        ["bash", "-c", page],
        cwd=demo.directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "200", done.stderr


def test_check_finds_nothing_wrong_with_it(demo: Demo) -> None:
    """The settings that the demo writes pass the check, online too."""
    command = [
        sys.executable,
        "-m",
        "proxy.cli.main",
        "check",
        "--config",
        str(demo.directory / ".demo" / "callgate.toml"),
        "--online",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout.rstrip()[-16:]) == (0, "no problem found"), (
        done.stdout + done.stderr
    )


def test_a_second_demo_in_the_same_directory_is_refused(demo: Demo) -> None:
    """Two demos would overwrite each other's files."""
    port, luigid_port = free_ports()
    done = start_and_fail(demo.directory, PORT=str(port), LUIGID_PORT=str(luigid_port))
    assert "another demo runs in .demo" in done


@pytest.mark.parametrize("name", ["PORT", "LUIGID_PORT"])
def test_a_port_in_use_is_one_clear_line(demo: Demo, tmp_path: Path, name: str) -> None:
    """The most likely failure names the port and the variable that chooses another, and leaves
    nothing behind.
    """
    ports = dict(zip(("PORT", "LUIGID_PORT"), map(str, free_ports()), strict=True)) | {
        name: str(demo.port)
    }
    line = start_and_fail(tmp_path, **ports)
    assert f"port {demo.port} is in use" in line
    assert f"{name}=" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "8443 "])
def test_a_port_that_is_none_is_one_clear_line(tmp_path: Path, port: str) -> None:
    """A misspelt port is not silently another one."""
    assert "expected a port number from 1 to 65535" in start_and_fail(tmp_path, PORT=port)


def start_and_fail(directory: Path, **environ: str) -> str:
    """Start a demo that cannot run; give its one line of explanation."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "demo", "--dir", ".demo"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_the_files_are_its_owners_to_write_whatever_the_umask(tmp_path: Path) -> None:
    """The gate refuses policies that others could write, so the demo, whose user may work with any
    umask, must not make such.
    """
    before = os.umask(0)
    try:
        files = DemoFiles(tmp_path, 8443, 8082, 9464, tmp_path / "supervisor.sock")
        write_files(files, now=time.time())
    finally:
        os.umask(before)
    assert (tmp_path / "policies" / "catalogs" / "luigi.toml").is_file()
    for path in tmp_path.rglob("*"):
        assert not path.stat().st_mode & 0o022, path
    refuse_open(load_settings(files.settings, environ={}))


def test_a_demo_refuses_policies_that_others_can_write(tmp_path: Path) -> None:
    """As a gate does, with the way to mend it; and it leaves nothing running."""
    policies = tmp_path / ".demo" / "policies"
    shutil.copytree(ROOT / "policies", policies)
    for path in (tmp_path / ".demo", policies, *policies.rglob("*")):
        path.chmod(path.stat().st_mode & 0o755)
    (policies / "roles.toml").chmod(0o666)
    port, luigid_port = free_ports()
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "demo", "--dir", ".demo"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PORT": str(port),
            "LUIGID_PORT": str(luigid_port),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "ready" not in done.stdout
    assert f"Run: chmod go-w {policies / 'roles.toml'}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, both ports free again, and no process left; what was edited is kept, and tokens
    are fresh, at the next start.
    """
    running = Demo.start(tmp_path)
    below = descendants(running.process.pid)
    assert len(below) >= 4, "luigid, supervisord and its two programs"
    edited = tmp_path / ".demo" / "policies" / "roles.toml"
    edited.write_text(edited.read_text() + "# mine\n")
    before = (tmp_path / ".demo" / "tokens" / "viewer.jwt").read_text()
    trusted = (tmp_path / ".demo" / "ca.pem").read_text()
    assert running.stop(number) == 0
    assert until(lambda: not any(map(runs, below)))
    again = Demo.start(tmp_path)
    assert again.stop(number) == 0
    assert edited.read_text().endswith("# mine\n")
    assert (tmp_path / ".demo" / "tokens" / "viewer.jwt").read_text() != before
    assert (tmp_path / ".demo" / "ca.pem").read_text() == trusted, (
        "a browser that trusts it must not be asked again"
    )


def test_even_kill_9_leaves_no_process(tmp_path: Path) -> None:
    """The kernel tells the children of the demo's death, and supervisord takes its own programs
    along.
    """
    running = Demo.start(tmp_path)
    below = descendants(running.process.pid)
    running.process.kill()
    running.process.communicate(timeout=PATIENCE)
    assert until(lambda: not any(map(runs, below)))


def test_it_works_in_a_directory_with_an_awkward_name(tmp_path: Path) -> None:
    """Blanks, a percent sign and a path too long for a socket are no reason to fail."""
    awkward = tmp_path / ("it's 100% long " + "x" * 60)
    awkward.mkdir()
    running = Demo.start(awkward)
    assert "RUNNING" in running.paste("Ask supervisord over XML-RPC").stdout
    assert running.paste("Run an unmodified luigi worker").returncode == 0
    assert running.stop(signal.SIGTERM) == 0


def test_the_printed_paths_are_quoted_for_the_shell(demo: Demo) -> None:
    """Each printed command is one that a shell reads without an open quote."""
    for line in demo.printed:
        if line.startswith("  ") and not line.strip().startswith("#"):
            assert shlex.split(line)
            assert not re.search(r"\s$", line)
