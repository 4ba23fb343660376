"""Those who mean no harm while somebody attacks: a few kept connections, each calling steadily, and
an account of what went wrong.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlencode

from tests.support.stack import Gate
from tests.support.stage import FORM, until

PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 20.0
CALLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ping": ("worker", {"worker": "beside"}),
    "add_task": ("worker", {"worker": "beside", "task_id": "Beside_1"}),
    "is_paused": ("viewer", {}),
}


class Bystander(threading.Thread):
    """Calls one method again and again over a single connection, from an address of its own.
    Whatever goes wrong stands in `failed`.
    """

    def __init__(self, gate: Gate, method: str, address: str) -> None:
        super().__init__(name=method)
        role, args = CALLS[method]
        token = gate.issuer.issue("bystander", [role], 3600, gate.now())
        self._headers = {"Content-Type": FORM, "Authorization": f"Bearer {token}"}
        self._body = urlencode({"data": json.dumps(args)})
        self._end = threading.Event()
        self.method = method
        self.calls = 0
        self.failed: list[str] = []
        source = (address, 0)
        self._connection = (
            HTTPConnection("127.0.0.1", gate.port, PATIENCE_SECONDS, source)
            if gate.context is None
            else HTTPSConnection(
                "localhost",
                gate.port,
                timeout=PATIENCE_SECONDS,
                source_address=source,
                context=gate.context,
            )
        )
        self._connection.connect()

    def run(self) -> None:
        """Call until told to end, or cut off: a connection that the gate closes is not made anew."""
        self._connection.auto_open = False
        try:
            while not self._end.wait(PAUSE_SECONDS):
                self._connection.request("POST", f"/api/{self.method}", self._body, self._headers)
                answer = self._connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(f"{answer.status} {answer.reason}")
                if answer.will_close:
                    self.failed.append("told to close")
                    return
                self.calls += 1
        except (OSError, HTTPException) as error:
            self.failed.append(repr(error))
        finally:
            self._connection.close()

    def end(self) -> None:
        """Finish the call in hand."""
        self._end.set()
        self.join(60)
        assert not self.is_alive()


class Bystanders:
    """One bystander for each method of `CALLS`."""

    def __init__(self, gate: Gate, address: str) -> None:
        self._all = [Bystander(gate, method, address) for method in CALLS]
        for one in self._all:
            one.start()

    def end(self) -> None:
        """Let each finish its call in hand."""
        for one in self._all:
            one.end()

    def __len__(self) -> int:
        return len(self._all)

    def until_served(self, calls: int = 5) -> None:
        """Wait until each has been answered so many times more, or has failed."""
        wanted = [one.calls + calls for one in self._all]
        pairs = list(zip(self._all, wanted, strict=True))
        until(
            lambda: all(one.failed or one.calls >= mark for one, mark in pairs),
            "the bystanders are served",
        )
        assert self.failed == {}

    @property
    def failed(self) -> dict[str, list[str]]:
        """What went wrong, by method."""
        return {one.method: one.failed for one in self._all if one.failed}


@contextmanager
def bystanders(gate: Gate, address: str = "127.0.0.2") -> Iterator[Bystanders]:
    """Bystanders who call during the block, and of whom nobody may have come to harm by its end."""
    found = Bystanders(gate, address)
    try:
        found.until_served()
        yield found
    finally:
        found.end()
    assert found.failed == {}
