"""Who calls all the while: stock workers, dashboards, and XML-RPC clients. Each notes what every
one of its calls came to.
"""

import http.client
import json
import re
import threading
import time
import xmlrpc.client
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.soak.world import World
from tests.support import stage
from tests.support.stage import Worker, write_netrc

LAYERS = 4  # of ten tasks each, in one run of a worker
TOKEN_SECONDS = 90.0  # the life of a worker's token
ROTATE_SECONDS = 20.0
_LISTS = (
    ("RUNNING", ""),
    ("BATCH_RUNNING", ""),
    ("FAILED", ""),
    ("PENDING", "UPSTREAM_FAILED"),
    ("DISABLED", ""),
)
_LISTS_2 = (("PENDING", "UPSTREAM_DISABLED"), ("PENDING", ""), ("DONE", ""))
XHRS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("task_list", {"status": status, "upstream_status": upstream})
        for status, upstream in (*_LISTS, *_LISTS_2)
    ),
    *(
        (method, {})
        for method in (
            "worker_list",
            "resource_list",
            "has_task_history",
            "is_pause_enabled",
            "is_paused",
        )
    ),
]
"""The thirteen calls with which the stock visualiser loads its data."""

_REASON = re.compile(r"\[([a-z-]+), ref ")


class Notes:
    """What became of calls: how many went well, by caller and method, and when which others did
    not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.good: Counter[tuple[str, str]] = Counter()
        self.bad: list[tuple[float, str, str]] = []

    def ok(self, who: str, method: str) -> None:
        """A call was answered."""
        with self._lock:
            self.good[who, method] += 1

    def failed(self, who: str, why: str) -> None:
        """A call was refused or broke off."""
        with self._lock:
            self.bad.append((time.monotonic(), who, why))


class Caller(threading.Thread):
    """Does one thing again and again, until told to end."""

    def __init__(self, name: str, pause: float, once: Callable[["Caller"], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._pause = pause
        self._once = once
        self._end = threading.Event()

    def run(self) -> None:
        """As the class says."""
        while not self._end.is_set():
            self._once(self)
            self._end.wait(self._pause)

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._end.is_set()

    def tell_to_end(self) -> None:
        """After what is in hand."""
        self._end.set()


class Dashboard:
    """A browser that loads the visualiser: the page, and the thirteen calls for its data, over one
    kept connection.
    """

    def __init__(self, world: World, notes: Notes, number: int) -> None:
        self.subject = f"dash-{number}"
        self._world = world
        self._notes = notes
        self._connection: http.client.HTTPSConnection | None = None

    def __call__(self, caller: Caller) -> None:
        """Load once, with a token of the provider's that is fresh."""
        token = self._world.provider.token(self.subject, "viewer", TOKEN_SECONDS)
        self._get("page.visualiser", "/static/visualiser/index.html", token)
        for method, args in XHRS:
            if not caller.ending:
                self._get(method, f"/api/{method}?data={quote(json.dumps(args))}", token)

    def _get(self, method: str, target: str, token: str) -> None:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                "localhost", self._world.port, timeout=60, context=self._world.context
            )
        headers = {
            "Authorization": f"Bearer {token}",
            "X-Requested-With": "XMLHttpRequest",
            "Accept": "application/json",
        }
        try:
            self._connection.request("GET", target, headers=headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._connection = None
            self._notes.failed(self.subject, type(error).__name__)
            time.sleep(0.2)
            return
        if answer.status == 200:
            self._notes.ok(self.subject, method)
        else:
            found = _REASON.search(answer.reason)
            self._notes.failed(self.subject, found[1] if found else str(answer.status))


class XmlRpcClient:
    """CPython's client, at supervisord and at luigid, alone and in bundles, with a token of the
    local issuer.
    """

    def __init__(self, world: World, notes: Notes, number: int) -> None:
        self.subject = f"rpc-{number}"
        self._world = world
        self._notes = notes
        self._round = 0

    def __call__(self, caller: Caller) -> None:
        """A few calls over one connection; the token is a new one every time."""
        self._round += 1
        token = self._world.local.issue(self.subject, ["operator"], 600, time.time())
        headers = [("Authorization", f"Bearer {token}")]
        proxy: Any
        with xmlrpc.client.ServerProxy(
            f"{self._world.url}/processes", headers=headers, context=self._world.context
        ) as proxy:
            self._call("supervisor.getState", proxy.supervisor.getState)
            self._call("supervisor.getAllProcessInfo", proxy.supervisor.getAllProcessInfo)
            start, stop = proxy.supervisor.startProcess, proxy.supervisor.stopProcess
            # one of them starts and stops, so that nobody is in its way
            if self.subject == "rpc-0":
                name, act = (
                    ("supervisor.startProcess", start)
                    if self._round % 2
                    else ("supervisor.stopProcess", stop)
                )
                self._call(name, lambda: act("spare"), fine=("ALREADY_STARTED", "NOT_RUNNING"))
            bundle = xmlrpc.client.MultiCall(proxy)
            bundle.supervisor.getState()
            bundle.supervisor.getSupervisorVersion()
            self._call("system.multicall", lambda: _both(bundle()))
        with xmlrpc.client.ServerProxy(
            f"{self._world.url}/RPC2", headers=headers, context=self._world.context
        ) as proxy:
            self._call("task_list", lambda: proxy.task_list("RUNNING", ""))
            self._call("worker_list", proxy.worker_list)

    def _call(self, method: str, call: Callable[[], object], fine: tuple[str, ...] = ()) -> None:
        try:
            call()
        except xmlrpc.client.Fault as fault:
            found = _REASON.search(fault.faultString)
            if any(word in fault.faultString for word in fine):
                self._notes.ok(self.subject, method)
            else:
                self._notes.failed(self.subject, found[1] if found else fault.faultString[:40])
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            self._notes.failed(self.subject, type(error).__name__)
            time.sleep(0.2)
        else:
            self._notes.ok(self.subject, method)


def _both(results: Any) -> tuple[object, object]:
    """The two results of a bundle; a fault in it is raised."""
    return results[0], results[1]


class WorkerRuns:
    """One stock worker after the other. With `requests`, a netrc whose token is another every few
    seconds; else a token in the URL.
    """

    def __init__(self, world: World, number: int, *, requests: bool) -> None:
        self.subject = f"etl-{number}"
        self._world = world
        self._requests = requests
        self._number = 0
        self.codes: Counter[int] = Counter()
        self.ended_early = 0
        self.ran = 0
        self.bad: list[str] = []
        self._netrc = world.directory / f"netrc-{number}"
        self.rotate()

    def rotate(self) -> None:
        """Put a new token in the place of the old one, as an operator's cron job does."""
        write_netrc(self._netrc, self._world.provider.token(self.subject, "worker", TOKEN_SECONDS))

    def __call__(self, caller: Caller) -> None:
        """One run, to its end."""
        self._number += 1
        directory = self._world.directory / "workers" / f"{self.subject}-{self._number}"
        output = directory / "out"
        output.mkdir(parents=True)
        run = f"{self.subject}-{self._number}"
        shared = ["--run-name", run, "--directory", str(output), "--seconds", "0.2"]
        arguments = [
            "--module",
            "steady",
            "Layer",
            "--layer",
            str(LAYERS - 1),
            "--number",
            "0",
            *shared,
        ]
        url = self._world.url + "/"
        if not self._requests:
            token = self._world.local.issue(self.subject, ["worker"], 3600, time.time())
            url = url.replace("https://", f"https://jwt:{token}@")
        worker = Worker(
            directory,
            url,
            arguments,
            requests=self._requests,
            ca=self._world.ca,
            netrc=self._netrc if self._requests else None,
        )
        code = worker.wait(300.0)
        self.codes[code] += 1
        text = worker.text()
        summary = worker.summary() if code == 0 else {}
        self.ran += summary.get("ran successfully", 0)
        if "were not granted run permission by the scheduler" in text:
            self.ended_early += 1
        elif (
            code
            or summary.get("ran successfully", 0) + summary.get("complete ones were encountered", 0)
            != LAYERS * 11
        ):
            self.bad.append(f"{run}: exit code {code}, {summary}: {text[-600:]}")


def be_patient() -> None:
    """Workers try again every second for two minutes, instead of every 30 seconds for a minute:
    more tries in the time there is.
    """
    stage._WORKER_SETTINGS = stage._WORKER_SETTINGS.replace(
        "rpc-retry-wait = 0", "rpc-retry-wait = 1\nrpc-retry-attempts = 120"
    )
