"""A real supervisord behind the gate, over its Unix socket and over TCP with a password of its own."""

import base64
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.stack import Gate, accepts, only
from tests.support.stage import DEADLINE_SECONDS, Process, free_port, until

OWN_PASSWORD = "supervisors-own-password"
CONFIGURATION = """
[unix_http_server]
file = {directory}/s.sock
chmod = 0700
[inet_http_server]
port = 127.0.0.1:{port}
username = gate
password = {password}
[supervisord]
logfile = {directory}/supervisord.log
pidfile = {directory}/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:sleeper]
command = {python} -c "import time; print('awake', flush=True); time.sleep(600)"
stdout_logfile = {directory}/sleeper.log
startsecs = 0
autostart = true
[program:spare]
command = {python} -c "import time; time.sleep(600)"
stdout_logfile = {directory}/spare.log
startsecs = 0
autostart = false
[program:echo]
command = {python} -u -c "print('heard', input(), flush=True); import signal; signal.pause()"
stdout_logfile = {directory}/echo.log
startsecs = 0
autostart = false
"""


class Supervisord:
    """The real thing, and a way to ask it without the gate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        configuration = directory / "supervisord.conf"
        configuration.write_text(
            CONFIGURATION.format(
                directory=directory, port=self.port, password=OWN_PASSWORD, python=sys.executable
            ),
            encoding="utf-8",
        )
        (directory / "password").write_text(f"gate:{OWN_PASSWORD}\n", encoding="utf-8")
        (directory / "password").chmod(0o600)
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisord",
            "--nodaemon",
            "--configuration",
            str(configuration),
        ]
        self.process = Process(command, directory, "supervisord-output")
        until(
            lambda: accepts(self.port) and (directory / "s.sock").exists(), "supervisord listened"
        )
        self.direct: Any = xmlrpc.client.ServerProxy(
            f"http://gate:{OWN_PASSWORD}@127.0.0.1:{self.port}/RPC2"
        )

    def state(self, name: str) -> str:
        """The state of a program, as supervisord itself sees it."""
        return str(self.direct.supervisor.getProcessInfo(name)["statename"])


@pytest.fixture(scope="module")
def supervisord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisord]:
    """One supervisord for all tests here."""
    running = Supervisord(tmp_path_factory.mktemp("s"))
    yield running
    assert running.process.stop() == 0


@pytest.fixture(scope="module")
def gate(supervisord: Supervisord, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with supervisord behind it three times: by socket, by TCP with its password, and by
    TCP without.
    """
    common = {"protocol": "xmlrpc", "catalog": "supervisor"}
    tcp = f"http://127.0.0.1:{supervisord.port}"
    running = Gate(
        tmp_path_factory.mktemp("gate"),
        [
            {
                "name": "processes",
                "url": f"unix:{supervisord.directory}/s.sock",
                "path_prefix": "/processes",
                **common,
            },
            {
                "name": "guarded",
                "url": tcp,
                "path_prefix": "/guarded",
                "basic_auth": {"file": supervisord.directory / "password"},
                **common,
            },
            {"name": "unpaired", "url": tcp, "path_prefix": "/unpaired", **common},
        ],
    ).start()
    yield running
    assert running.stop() == 0


def faults(call: Any) -> xmlrpc.client.Fault:
    """The fault that `call` ends in."""
    with pytest.raises(xmlrpc.client.Fault) as raised:
        call()
    return raised.value


@pytest.mark.parametrize("door", ["/processes", "/processes/RPC2", "/guarded", "/guarded/RPC2"])
def test_a_viewer_reads_its_state(gate: Gate, supervisord: Supervisord, door: str) -> None:
    """By socket or TCP, with supervisord's own password sent by the gate, a viewer sees what
    supervisord itself says; it is recorded.
    """
    since = gate.mark()
    viewer = gate.proxy(door, "viewer")
    assert viewer.supervisor.getState() == {"statecode": 1, "statename": "RUNNING"}
    assert {info["name"] for info in viewer.supervisor.getAllProcessInfo()} == {
        "sleeper",
        "spare",
        "echo",
    }
    assert viewer.supervisor.getPID() == supervisord.process.pid
    records = gate.calls(since)
    decided = only(records, method="supervisor.getState")
    assert decided["principal"]["subject"] == "viewer-1"
    assert decided["principal"]["roles"] == ["viewer"]
    assert (decided["upstream"], decided["permission"], decided["decision"]) == (
        door.split("/")[1],
        "view",
        "allow",
    )
    assert decided["peer"]["tls"] in ("TLSv1.2", "TLSv1.3")
    assert decided["policies"] == ["viewers-look"]
    completed = only(records, stage="completed", id=decided["id"])
    assert (completed["outcome"], completed["status"]) == ("ok", 200)
    assert completed["bytes"] > 0


def test_supervisords_own_password_stays_between_the_two(
    gate: Gate, supervisord: Supervisord
) -> None:
    """The upstream's refusal of a gate without its password is told as a fault that names no
    credential, and recorded as failed.
    """
    since = gate.mark()
    viewer = gate.proxy("/unpaired", "viewer")
    fault = faults(viewer.supervisor.getState)
    assert fault.faultCode == 502
    assert "upstream-invalid" in fault.faultString
    assert "401" in fault.faultString
    assert only(gate.calls(since), stage="completed")["reason"] == "upstream-invalid"
    written = gate.written()
    assert OWN_PASSWORD.encode() not in written
    assert base64.b64encode(f"gate:{OWN_PASSWORD}".encode()) not in written


def test_shutdown_is_refused_alone(gate: Gate, supervisord: Supervisord) -> None:
    """A viewer's and an operator's shutdown is a fault with the one line; supervisord goes on, and
    the record says why.
    """
    for role in ("viewer", "operator"):
        since = gate.mark()
        proxy = gate.proxy("/processes", role)
        fault = faults(proxy.supervisor.shutdown)
        record = only(gate.calls(since))
        assert fault.faultCode == 403
        line = f"callgate: {role}-1 ({role}) may not supervisor.shutdown processes [no-policy-allows, ref {record['id']}]"
        assert fault.faultString == line
        assert (record["stage"], record["decision"], record["permission"]) == (
            "decided",
            "deny",
            "admin",
        )
    assert supervisord.direct.supervisor.getState()["statename"] == "RUNNING"


def test_shutdown_is_refused_inside_a_multicall(gate: Gate, supervisord: Supervisord) -> None:
    """supervisord itself would run all of a batch; here the refused call is a fault in its place,
    and the others answer.
    """
    viewer = gate.proxy("/processes", "viewer")
    batch = xmlrpc.client.MultiCall(viewer)
    batch.supervisor.getState()
    batch.supervisor.shutdown()
    answers = batch()
    assert answers[0] == {"statecode": 1, "statename": "RUNNING"}
    with pytest.raises(xmlrpc.client.Fault, match=r"may not supervisor[.]shutdown processes"):
        answers[1]
    since = gate.mark()
    calls = [("getState", []), ("shutdown", []), ("getPID", []), ("getProcessInfo", ["nobody"])]
    raw = viewer.system.multicall(
        [{"methodName": f"supervisor.{name}", "params": params} for name, params in calls]
    )
    assert raw[0] == [{"statecode": 1, "statename": "RUNNING"}]
    assert raw[2] == [supervisord.process.pid]
    assert (raw[1]["faultCode"], raw[3]["faultCode"]) == (403, 10), (
        "10 is supervisord's own BAD_NAME"
    )
    assert "may not supervisor.shutdown processes" in raw[1]["faultString"]
    records = gate.calls(since)
    decided = [r for r in records if r["stage"] == "decided"]
    assert [(r["method"], r["decision"]) for r in decided] == [
        ("supervisor.getState", "allow"),
        ("supervisor.shutdown", "deny"),
        ("supervisor.getPID", "allow"),
        ("supervisor.getProcessInfo", "allow"),
    ]
    assert [r["id"] for r in decided] == [f"{decided[0]['id'][:-2]}.{n}" for n in range(4)]
    assert {r["id"][-1]: r["outcome"] for r in records if r["stage"] == "completed"} == {
        "0": "ok",
        "2": "ok",
        "3": "fault",
    }
    assert supervisord.direct.supervisor.getState()["statename"] == "RUNNING"


def test_an_operator_starts_and_stops_a_process(gate: Gate, supervisord: Supervisord) -> None:
    """Triggers reach supervisord with their arguments, by position; the records name the process."""
    operator = gate.proxy("/processes", "operator")
    since = gate.mark()
    assert operator.supervisor.startProcess("spare") is True
    assert supervisord.state("spare") == "RUNNING"
    assert operator.supervisor.stopProcess("spare", True) is True
    assert supervisord.state("spare") == "STOPPED"
    started, stopped = [r for r in gate.calls(since) if r["stage"] == "decided"]
    assert (started["method"], started["args"], started["permission"]) == (
        "supervisor.startProcess",
        {"name": "spare"},
        "trigger",
    )
    assert (stopped["method"], stopped["args"]) == (
        "supervisor.stopProcess",
        {"name": "spare", "wait": True},
    )
    fault = faults(lambda: operator.supervisor.stopProcess("spare"))
    assert (fault.faultCode, "NOT_RUNNING" in fault.faultString) == (70, True), (
        "supervisord's own fault passes as it is"
    )
    assert gate.calls(since)[-1]["outcome"] == "fault"


def test_an_admin_clears_a_log(gate: Gate, supervisord: Supervisord) -> None:
    """An admin's call acts; the same call of an operator does not."""
    log = supervisord.directory / "sleeper.log"
    until(lambda: log.read_text() == "awake\n", "the program had spoken")
    operator = gate.proxy("/processes", "operator")
    assert faults(lambda: operator.supervisor.clearProcessLogs("sleeper")).faultCode == 403
    assert log.read_text() == "awake\n"
    since = gate.mark()
    admin = gate.proxy("/processes", "admin")
    assert admin.supervisor.clearProcessLogs("sleeper") is True
    assert log.read_text() == ""
    assert only(gate.calls(since), stage="decided")["policies"] == [
        "admins-look-trigger-administer"
    ]


def test_an_agent_looks_and_starts_nothing(gate: Gate, supervisord: Supervisord) -> None:
    """An agent reads; its start is forbidden by the policy about agents, which the record names."""
    agent = gate.proxy("/processes", "agent")
    assert agent.supervisor.getState()["statename"] == "RUNNING"
    since = gate.mark()
    fault = faults(lambda: agent.supervisor.startProcess("spare"))
    assert fault.faultCode == 403
    record = only(gate.calls(since))
    assert (record["principal"]["agent"], record["reason"], record["policies"]) == (
        True,
        "policy-forbids",
        ["agents-only-look"],
    )
    assert supervisord.state("spare") == "STOPPED"


def test_a_stranger_gets_nothing(gate: Gate) -> None:
    """A good token without a role: every method is refused for that reason, the gate's own answers
    too.
    """
    stranger = gate.proxy("/processes", "stranger")
    since = gate.mark()
    for call in (stranger.supervisor.getState, stranger.system.listMethods):
        fault = faults(call)
        assert fault.faultCode == 403
        assert "[no-role, ref " in fault.faultString
    assert {(r["stage"], r["reason"]) for r in gate.calls(since)} == {("rejected", "no-role")}


def test_no_token_is_a_401(gate: Gate) -> None:
    """Without a credential the answer is the HTTP status that every client knows, and the journal
    holds a `rejected` record.
    """
    since = gate.mark()
    nobody = gate.proxy("/processes", None)
    with pytest.raises(xmlrpc.client.ProtocolError) as raised:
        nobody.supervisor.getState()
    assert raised.value.errcode == 401
    assert "Basic" in raised.value.headers["www-authenticate"]
    record = only(gate.calls(since))
    assert (record["stage"], record["reason"]) == ("rejected", "no-credential")


@pytest.mark.parametrize("user", ["jwt", "anybody", ""])
def test_basic_credentials_with_the_token_as_password(gate: Gate, user: str) -> None:
    """Clients that know only user name and password send the token as the password; the user name
    does not matter.
    """
    since = gate.mark()
    secret = f"{user}:{gate.token('viewer')}"
    headers = [("Authorization", "Basic " + base64.b64encode(secret.encode()).decode())]
    proxy: Any = xmlrpc.client.ServerProxy(
        f"{gate.url}/processes", headers=headers, context=gate.context
    )
    assert proxy.supervisor.getState()["statename"] == "RUNNING"
    assert only(gate.calls(since), stage="decided")["principal"]["subject"] == "viewer-1"
    url = f"https://{user or 'x'}:{gate.token('viewer')}@localhost:{gate.port}/processes"
    by_url: Any = xmlrpc.client.ServerProxy(url, context=gate.context)
    assert by_url.supervisor.getPID() > 0
    written = gate.written()
    assert gate.token("viewer").encode() not in written
    assert headers[0][1].removeprefix("Basic ").encode() not in written


def test_list_methods_shows_what_the_caller_may_call(gate: Gate) -> None:
    """Each role sees its own list; every name on it is one that it may call, and no other is."""
    lists: dict[str, set[str]] = {}
    for role in ("viewer", "operator", "admin", "agent"):
        proxy = gate.proxy("/processes", role)
        lists[role] = set(proxy.system.listMethods())
    own = {"system.listMethods", "system.methodHelp", "system.methodSignature", "system.multicall"}
    assert own < lists["viewer"] == lists["agent"]
    assert "supervisor.getState" in lists["viewer"]
    assert "supervisor.startProcess" not in lists["viewer"]
    assert lists["viewer"] < lists["operator"] < lists["admin"]
    assert "supervisor.shutdown" in lists["admin"] - lists["operator"]


def test_signature_and_help_come_from_the_catalog(gate: Gate) -> None:
    """They agree with what supervisord says of itself, and a method that one may not call looks
    like one that is not there.
    """
    since = gate.mark()
    operator = gate.proxy("/processes", "operator")
    assert operator.system.methodSignature("supervisor.startProcess") == [
        ["boolean", "string"],
        ["boolean", "string", "boolean"],
    ]
    assert operator.system.methodHelp("supervisor.startProcess").startswith(
        "Start a process.\n  name ("
    )
    hidden = faults(lambda: operator.system.methodHelp("supervisor.shutdown"))
    missing = faults(lambda: operator.system.methodHelp("supervisor.nonsense"))
    assert (hidden.faultCode, hidden.faultString) == (missing.faultCode, missing.faultString)
    records = gate.calls(since)
    assert [r["args"]["method"] for r in records if r["stage"] == "decided"] == [
        "supervisor.startProcess",
        "supervisor.startProcess",
        "supervisor.shutdown",
        "supervisor.nonsense",
    ]
    assert {r["protocol"] for r in records if r["stage"] == "decided"} == {"xmlrpc"}


def test_every_view_method_of_supervisord_works_through_the_gate(
    gate: Gate, supervisord: Supervisord
) -> None:
    """The catalog's methods that need no argument answer as supervisord answers directly, alone and
    as parts of one multicall.
    """
    viewer = gate.proxy("/processes", "viewer")
    names = [
        "getAPIVersion",
        "getVersion",
        "getSupervisorVersion",
        "getIdentification",
        "getState",
        "getPID",
        "getAllConfigInfo",
    ]
    alone = [getattr(viewer.supervisor, name)() for name in names]
    assert alone == [getattr(supervisord.direct.supervisor, name)() for name in names]
    together = viewer.system.multicall(
        [{"methodName": f"supervisor.{name}", "params": []} for name in names]
    )
    assert [result for [result] in together] == alone


def test_what_is_written_to_a_process_is_withheld_from_the_record(gate: Gate) -> None:
    """The argument that the catalog calls secret is recorded as a keyed hash, though supervisord
    got it.
    """
    since = gate.mark()
    admin = gate.proxy("/processes", "admin")
    assert admin.supervisor.sendProcessStdin("sleeper", "hunter2\n") is True
    record = only(gate.calls(since), stage="decided")
    assert record["args"]["name"] == "sleeper"
    assert list(record["args"]["chars"]) == ["hmac-sha256"]


def test_unknown_methods_are_refused_and_not_forwarded(gate: Gate) -> None:
    """What the catalog does not have does not exist, for an admin too; the record says so, and
    withholds what nobody knows.
    """
    since = gate.mark()
    admin = gate.proxy("/processes", "admin")
    fault = faults(lambda: admin.supervisor.launchMissiles(3))
    assert "unknown-method" in fault.faultString
    record = only(gate.calls(since))
    assert (record["decision"], record["reason"], record["in_catalog"]) == (
        "deny",
        "unknown-method",
        False,
    )
    assert list(record["args"]["0"]) == ["hmac-sha256"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ((), "name is missing"),
        ((3,), "name must be a string"),
        (("sleeper", True, 1), "takes at most 2"),
        (("sleeper", 1), "wait must be"),
    ],
)
def test_arguments_are_checked_before_supervisord_sees_them(
    gate: Gate, params: tuple[Any, ...], said: str
) -> None:
    """Too few, too many, or of another type: a fault with JSON-RPC's code for that, and a
    `rejected` record.
    """
    since = gate.mark()
    operator = gate.proxy("/processes", "operator")
    fault = faults(lambda: operator.supervisor.startProcess(*params))
    assert fault.faultCode == -32602
    assert said in fault.faultString
    record = only(gate.calls(since))
    assert (record["stage"], record["reason"], record["principal"]["subject"]) == (
        "rejected",
        "bad-arguments",
        "operator-1",
    )


def test_supervisorctl_works_over_a_plain_loopback_listener(
    supervisord: Supervisord, tmp_path: Path
) -> None:
    """supervisorctl knows http:// and ``/RPC2`` alone: with plain HTTP on loopback, at the root, it
    works with the token as password.
    """
    upstream = {
        "name": "processes",
        "protocol": "xmlrpc",
        "catalog": "supervisor",
        "url": f"unix:{supervisord.directory}/s.sock",
    }
    gate = Gate(tmp_path / "gate", [upstream], tls=False).start()

    def ctl(role: str, *words: str, scheme: str = "http") -> subprocess.CompletedProcess[str]:
        configuration = tmp_path / "ctl.conf"
        configuration.write_text(
            f"[supervisorctl]\nserverurl = {scheme}://localhost:{gate.port}\nusername = jwt\npassword = {gate.token(role)}\n"
        )
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisorctl",
            "-c",
            str(configuration),
            *words,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )

    try:
        assert "sleeper                          RUNNING" in ctl("viewer", "status").stdout
        refused = "callgate: viewer-1 (viewer) may not supervisor.startProcess processes [no-policy"
        assert refused in ctl("viewer", "start", "spare").stdout
        assert "spare: started" in ctl("operator", "start", "spare").stdout
        assert "spare: stopped" in ctl("operator", "stop", "spare").stdout
        assert "Unknown protocol" in ctl("viewer", "status", scheme="https").stdout
        decided = [
            (r["method"], r["decision"], r["peer"]["tls"])
            for r in gate.calls()
            if r["stage"] == "decided"
        ]
        assert ("supervisor.startProcess", "deny", None) in decided
        assert ("supervisor.startProcess", "allow", None) in decided
    finally:
        assert gate.stop() == 0


@pytest.fixture(scope="module")
def at_root(supervisord: Supervisord, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate for supervisorctl: plain HTTP on loopback, and supervisord at its root."""
    upstream = {
        "name": "processes",
        "protocol": "xmlrpc",
        "catalog": "supervisor",
        "url": f"unix:{supervisord.directory}/s.sock",
        "read_timeout_seconds": 0.5,
        "replace_control_characters": True,
    }
    running = Gate(tmp_path_factory.mktemp("root"), [upstream], tls=False).start()
    yield running
    assert running.stop() == 0


class Ctl:
    """A supervisorctl that goes through a gate, and what it has printed so far."""

    def __init__(self, gate: Gate, role: str, *words: str) -> None:
        configuration = gate.directory / f"ctl-{role}.conf"
        configuration.write_text(
            f"[supervisorctl]\nserverurl = http://localhost:{gate.port}\n"
            f"username = jwt\npassword = {gate.token(role)}\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "supervisor.supervisorctl", "-c", configuration, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.output = ""

    def printed(self, text: str) -> bool:
        """Whether it has printed `text`."""
        assert self.process.stdout is not None
        self.output += (self.process.stdout.read() or b"").decode()
        return text in self.output

    def end(self) -> None:
        """Interrupt it, as a person does, and wait for its end."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=DEADLINE_SECONDS)


def test_supervisorctl_follows_a_log(at_root: Gate, supervisord: Supervisord) -> None:
    """``tail -f``: what is written arrives while it is written, and silence does not end it.

    The read timeout of this upstream is half a second. The record ends when the reader leaves.
    """
    log = supervisord.directory / "sleeper.log"
    log.write_text("one\n")
    since = at_root.mark()
    ctl = Ctl(at_root, "viewer", "tail", "-f", "sleeper")
    try:
        until(lambda: ctl.printed("one"), "the log's end had come")
        with log.open("a") as more:
            more.write("two\n")
        until(lambda: ctl.printed("two"), "what was added had come")
        silent_until = time.monotonic() + 1.5
        until(lambda: time.monotonic() > silent_until, "the read timeout was over thrice")
        with log.open("a") as more:
            more.write("three \x1b[31mred\n")
        until(lambda: ctl.printed("three \x1b[31mred"), "the log went on")
    finally:
        ctl.end()
    decided = only(at_root.calls(since), method="page.logtail")
    assert (decided["permission"], decided["args"]) == (
        "view",
        {"name": "sleeper", "channel": "stdout"},
    )
    completed = only(at_root.calls(since), stage="completed", id=decided["id"])
    assert (completed["outcome"], completed["reason"]) == ("failed", "client-gone")


def test_supervisorctl_follows_supervisords_own_log(at_root: Gate) -> None:
    """``maintail -f``: the end of it comes at once."""
    since = at_root.mark()
    ctl = Ctl(at_root, "viewer", "maintail", "-f")
    try:
        until(lambda: ctl.printed(" INFO "), "the log's end had come")
    finally:
        ctl.end()
    assert only(at_root.calls(since), method="page.mainlogtail")["decision"] == "allow"


def test_supervisorctl_in_the_foreground(at_root: Gate, supervisord: Supervisord) -> None:
    """``fg``: what a person types reaches the process, and its output the person."""
    supervisord.direct.supervisor.startProcess("echo")
    since = at_root.mark()
    ctl = Ctl(at_root, "admin", "fg", "echo")
    try:
        until(lambda: ctl.printed("==> Press Ctrl-C to exit <=="), "it was in the foreground")
        assert ctl.process.stdin is not None
        ctl.process.stdin.write(b"hello\n")
        ctl.process.stdin.flush()
        until(lambda: ctl.printed("heard hello"), "the process answered")
    finally:
        ctl.process.kill()
        ctl.process.communicate(timeout=DEADLINE_SECONDS)
    methods = {r["method"] for r in at_root.calls(since) if r["stage"] == "decided"}
    assert {"page.logtail", "supervisor.sendProcessStdin"} <= methods
    supervisord.direct.supervisor.stopProcess("echo")


@pytest.mark.parametrize(
    ("role", "words", "said"),
    [
        ("viewer", ("status",), "sleeper                          RUNNING"),
        ("viewer", ("avail",), "sleeper"),
        ("viewer", ("pid",), ""),
        ("viewer", ("pid", "sleeper"), ""),
        ("viewer", ("version",), "4."),
        ("viewer", ("tail", "sleeper"), ""),
        ("viewer", ("tail", "-100", "sleeper", "stderr"), ""),
        ("viewer", ("maintail",), "supervisord started"),
        ("operator", ("start", "spare"), "spare: started"),
        ("operator", ("signal", "CONT", "sleeper"), "sleeper: signalled"),
        ("operator", ("restart", "spare"), "spare: started"),
        ("operator", ("stop", "spare"), "spare: stopped"),
        ("admin", ("clear", "spare"), "spare: cleared"),
        ("admin", ("reread",), "No config updates to processes"),
        ("admin", ("update",), ""),
        ("admin", ("remove", "spare"), "spare: removed process group"),
        ("admin", ("add", "spare"), "spare: added process group"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_other_command_of_supervisorctl(
    at_root: Gate, supervisord: Supervisord, role: str, words: tuple[str, ...], said: str
) -> None:
    """Each works with the role that its permission asks for."""
    (supervisord.directory / "sleeper.log").write_text("a line\n")
    ctl = Ctl(at_root, role, *words)
    output = ctl.process.communicate(timeout=DEADLINE_SECONDS)[0].decode()
    assert said in output
    for trouble in ("Traceback", "Unknown result code", "refused", "error:"):
        assert trouble not in output


@pytest.mark.parametrize(
    ("role", "words", "said"),
    [
        (
            "viewer",
            ("start", "spare"),
            "viewer-1 (viewer) may not supervisor.startProcess processes",
        ),
        (
            "viewer",
            ("stop", "sleeper"),
            "may not supervisor.stopProcess processes [no-policy-allows",
        ),
        ("viewer", ("restart", "sleeper"), "may not supervisor.stopProcess processes"),
        ("viewer", ("start", "all"), "may not supervisor.startAllProcesses processes"),
        ("viewer", ("signal", "HUP", "sleeper"), "may not supervisor.signalProcess processes"),
        ("viewer", ("clear", "sleeper"), "may not supervisor.clearProcessLogs processes"),
        ("viewer", ("reload",), "may not supervisor.restart processes"),
        ("viewer", ("shutdown",), "may not supervisor.shutdown processes"),
        ("viewer", ("update",), "may not supervisor.reloadConfig processes"),
        (
            "stranger",
            ("status",),
            "stranger-1 (no role) may not use processes: the token names no group",
        ),
        ("stranger", ("tail", "-f", "sleeper"), "stranger-1 (no role) may not "),
        ("worker", ("tail", "-f", "sleeper"), "may not supervisor.getVersion processes"),
        ("expired", ("status",), "callgate: The token has expired"),
        ("garbled", ("status",), "[bad-credential, ref "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_supervisorctl_prints_why_it_was_refused(
    at_root: Gate, supervisord: Supervisord, role: str, words: tuple[str, ...], said: str
) -> None:
    """Whatever the command and the refusal, one line has the reason and the reference."""
    if role == "expired":
        at_root._tokens[role] = at_root.issuer.issue("old", ["viewer"], 60, time.time() - 7200)
    if role == "garbled":
        at_root._tokens[role] = "not-a-token"
    ctl = Ctl(at_root, role, *words)
    output = ctl.process.communicate(timeout=DEADLINE_SECONDS)[0].decode()
    [line] = [line for line in output.splitlines() if "callgate: " in line]
    assert said in line
    assert re.search(r"\[[a-z-]+, ref [A-Z0-9]+\]", line)
    assert "Unknown result code" not in output
    assert supervisord.state("sleeper") == "RUNNING"


def test_the_catalog_is_what_supervisord_says_of_itself(
    supervisord: Supervisord, tmp_path: Path
) -> None:
    """The shipped catalog lacks no method; a draft has every name and type; init finds the shipped
    one. By socket, and by TCP with the password in a file.
    """
    socket, password = (
        f"unix:{supervisord.directory}/s.sock",
        str(supervisord.directory / "password"),
    )
    tcp = [f"http://127.0.0.1:{supervisord.port}", "--basic-auth-file", password]
    shipped = str(ROOT / "policies" / "catalogs" / "supervisor.toml")

    def callgate(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "proxy", *words],
            capture_output=True, text=True, timeout=DEADLINE_SECONDS, cwd=ROOT, check=False,
        )  # fmt: skip

    for server in ([socket], tcp):
        done = callgate("catalog", "diff", *server, "--catalog", shipped)
        assert (done.returncode, "lacks 0 and has 0" in done.stdout) == (0, True), done
    assert "requires a credential" in callgate("catalog", "draft", tcp[0]).stderr
    draft = callgate("catalog", "draft", *tcp).stdout
    assert OWN_PASSWORD not in draft
    start = draft.partition('[methods."supervisor.startProcess"]')[2].partition("[methods")[0]
    assert '"trigger"? Its name begins with start.' in start
    assert '{ name = "wait", type = "boolean" }' in start
    made = callgate(
        "init", "--upstream", socket, "--protocol", "xmlrpc", "--dir", str(tmp_path / "gate")
    )
    assert "with the shipped catalog supervisor" in made.stdout, made.stderr


def test_a_refused_follower_of_a_log_prints_why(at_root: Gate) -> None:
    """The client behind ``tail -f`` prints the body of a 200 and of nothing else; it gets no log."""
    for path, said in (
        ("/logtail/sleeper", "the log of a process of"),
        ("/mainlogtail", "the log of"),
    ):
        connection = http.client.HTTPConnection("localhost", at_root.port, timeout=DEADLINE_SECONDS)
        headers = {
            "Authorization": f"Bearer {at_root.token('worker')}",
            "User-agent": "Supervisor HTTP Client",
        }
        connection.request("GET", path, headers=headers)
        text = connection.getresponse().read().decode()
        connection.close()
        assert f"worker-1 (worker) may not follow {said} processes [no-policy-allows, ref " in text
        assert text.count("\n") == 1


def test_a_log_with_colours_can_be_read(
    at_root: Gate, gate: Gate, supervisord: Supervisord
) -> None:
    """supervisord's answer is no XML. With the setting the colours are replaced; without it a fault
    names the character and its place.
    """
    log = supervisord.directory / "sleeper.log"
    log.write_text("\x1b[31mred\x1b[0m\n")
    ctl = Ctl(at_root, "viewer", "tail", "sleeper")
    assert "\ufffd[31mred\ufffd[0m" in ctl.process.communicate(timeout=30)[0].decode()
    viewer = gate.proxy("/processes", "viewer")
    fault = faults(lambda: viewer.supervisor.readProcessStdoutLog("sleeper", 0, 0))
    assert "the control character U+001B at byte " in fault.faultString
    assert "set replace_control_characters" in fault.faultString
    log.write_text("\x1b" * 100_000)
    ctl = Ctl(at_root, "viewer", "tail", "-100000", "sleeper")
    assert "\ufffd" * 100_000 in ctl.process.communicate(timeout=30)[0].decode()
    log.write_text("a line\n")


def page(
    gate: Gate, path: str, role: str | None = "viewer", *, verb: str = "GET"
) -> tuple[int, dict[str, str], str]:
    """The status, the headers and the text of a page, as a browser gets it."""
    connection = http.client.HTTPConnection("localhost", gate.port, timeout=DEADLINE_SECONDS)
    headers = {"Authorization": f"Bearer {gate.token(role)}"} if role else {}
    connection.request(verb, path, headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, text


def test_supervisords_web_page_is_for_looking(at_root: Gate, supervisord: Supervisord) -> None:
    """The states, the log of a process, the style sheet; each is recorded as a view."""
    since = at_root.mark()
    for path in ("/", "/index.html", "/?message=x", "/index.html?action=refresh"):
        status, headers, text = page(at_root, path)
        assert (status, "sleeper" in text, "Restart All" in text) == (200, True, True)
        assert headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in headers["content-security-policy"]
    (supervisord.directory / "sleeper.log").write_text("a line\n")
    assert "a line" in page(at_root, "/tail.html?processname=sleeper&limit=4096")[2]
    status, headers, text = page(at_root, "/stylesheets/supervisor.css")
    assert (status, headers["content-type"], "body" in text) == (200, "text/css", True)
    assert page(at_root, "/ok.html")[2] == "OK"
    methods = [r["method"] for r in at_root.calls(since) if r["stage"] == "decided"]
    assert methods == ["page.status"] * 4 + ["page.tail", "page.files", "page.ok"]
    assert page(at_root, "/logtail/missing/stdout")[0] == 404
    assert page(at_root, "/logtail/sleeper/other")[0] == 404


@pytest.mark.parametrize(
    ("path", "verb", "command"),
    [
        ("/index.html?action=stopall", "GET", "supervisorctl stop all"),
        ("/?action=restartall", "GET", "supervisorctl restart all"),
        ("/index.html?processname=sleeper&action=stop", "GET", "supervisorctl stop"),
        ("/index.html?action=clearlog&processname=sleeper", "GET", "supervisorctl clear"),
        ("/index.html", "POST", "supervisorctl"),
        ("/tail.html?action=stopall", "GET", "supervisorctl stop all"),
    ],
)
def test_a_link_of_the_web_page_does_not_act(
    at_root: Gate, supervisord: Supervisord, path: str, verb: str, command: str
) -> None:
    """Not even for an admin: a page says why, and what does it instead."""
    since = at_root.mark()
    status, headers, text = page(at_root, path, "admin", verb=verb)
    assert status == 403
    assert headers["content-type"].startswith("text/html")
    assert "a link of supervisord&#x27;s page would act" in text
    assert command in text
    assert only(at_root.calls(since))["reason"] == "cross-site"
    assert supervisord.state("sleeper") == "RUNNING"


def test_pages_are_decided_like_calls(at_root: Gate, gate: Gate) -> None:
    """A stranger gets no log, and no role has it without a credential; XML-RPC has no pages."""
    for path in ("/logtail/sleeper/stdout", "/mainlogtail", "/", "/tail.html?processname=sleeper"):
        assert page(at_root, path, None)[0] == 401
        status, _, text = page(at_root, path, "stranger")
        assert (status, "no-role" in text) == (403, True)
        status, _, text = page(at_root, path, "worker")
        assert (status, "no-policy-allows" in text) == (403, True)
    proxy = gate.proxy("/processes", "admin")
    assert not [name for name in proxy.system.listMethods() if name.startswith("page.")]
    assert faults(lambda: getattr(proxy, "page.logtail")("sleeper", "stdout")).faultCode == 403


def test_a_supervisord_that_is_down_is_a_fault_and_heals(tmp_path: Path) -> None:
    """While nothing listens the caller is told to come back, in a fault with Retry-After; once it
    listens, calls go through.
    """
    port = free_port()
    own = Gate(
        tmp_path / "gate",
        [
            {
                "name": "late",
                "protocol": "xmlrpc",
                "catalog": "supervisor",
                "url": f"http://127.0.0.1:{port}",
                "path_prefix": "/late",
            }
        ],
    ).start()
    try:
        body = xmlrpc.client.dumps((), "supervisor.getState").encode()
        answer = own.ask("/late/RPC2", "viewer", body, kind="text/xml")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/xml")
        assert int(answer.headers["retry-after"]) >= 1
        assert b"<int>502</int>" in answer.body
        assert b"upstream-unreachable" in answer.body
        completed = only(own.calls(), stage="completed")
        assert (completed["outcome"], completed["reason"], completed["status"]) == (
            "failed",
            "upstream-unreachable",
            200,
        )
        configuration = tmp_path / "late.conf"
        configuration.write_text(
            f"[inet_http_server]\nport = 127.0.0.1:{port}\n[supervisord]\nlogfile = {tmp_path}/late.log\npidfile = {tmp_path}/late.pid\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        )
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisord",
            "--nodaemon",
            "--configuration",
            str(configuration),
        ]
        late = Process(command, tmp_path, "late-output")
        try:
            viewer = own.proxy("/late", "viewer")
            until(lambda: accepts(port), "supervisord listened")
            assert viewer.supervisor.getState()["statename"] == "RUNNING"
        finally:
            late.stop()
    finally:
        assert own.stop() == 0
