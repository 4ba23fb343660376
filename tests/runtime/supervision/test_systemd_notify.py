import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.runtime.supervision.systemd_notify import SystemdNotifier


class Systemd:
    """A datagram socket in the place of systemd's."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def received(self) -> dict[str, str]:
        """Return the assignments of the next message."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Give a socket of either kind."""
    name = f"@callgate-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n")
    stand_in = Systemd(name)
    yield stand_in
    stand_in.socket.close()


def test_each_state_is_one_message(systemd: Systemd) -> None:
    """Ready and stopping are the words of sd_notify(3); a status is for people."""
    notifier = SystemdNotifier(systemd.address)
    notifier.ready("generation 1 is serving")
    assert systemd.received() == {"READY": "1", "STATUS": "generation 1 is serving"}
    notifier.stopping()
    assert systemd.received() == {"STOPPING": "1"}


def test_a_reload_has_the_time_of_its_beginning(systemd: Systemd) -> None:
    """systemd tells by it which of two reloads a message belongs to."""
    before = time.monotonic_ns() // 1000
    SystemdNotifier(systemd.address).reloading()
    message = systemd.received()
    assert message.pop("RELOADING") == "1"
    assert before <= int(message.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert not message


def test_the_address_is_taken_out_of_the_environment(systemd: Systemd) -> None:
    """Child processes must not speak for the service."""
    environ = {"NOTIFY_SOCKET": systemd.address, "PATH": "/bin"}
    notifier = SystemdNotifier.from_environment(environ)
    assert environ == {"PATH": "/bin"}
    notifier.stopping()
    assert systemd.received() == {"STOPPING": "1"}


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    """A service started by hand has no socket, and one whose socket is gone goes on serving."""
    SystemdNotifier.from_environment({}).ready("serving")
    SystemdNotifier(str(tmp_path / "gone")).ready("serving")


def test_a_socket_that_is_not_read_delays_the_service_by_a_second_at_most(tmp_path: Path) -> None:
    """A stuck systemd must not keep the supervisor from its processes."""
    stuck = Systemd(str(tmp_path / "n"))
    stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    notifier = SystemdNotifier(stuck.address)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sender.sendto(b"x" * 1000, stuck.address)
    started = time.monotonic()
    notifier.stopping()
    assert 0.5 < time.monotonic() - started < 5
    sender.close()
    stuck.socket.close()
