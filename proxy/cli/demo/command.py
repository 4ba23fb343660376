"""``callgate demo``: the proxy with a real luigid and a real supervisord, on loopback only.

What other programs may rely on: ``https://localhost:8443`` (``PORT`` and ``LUIGID_PORT`` override
the ports), the files under the demo's directory, ``ready`` alone on a line once calls succeed, and
that SIGINT or SIGTERM ends all of it with exit code 0 and leaves no process.
"""

import asyncio
import fcntl
import os
import signal
import ssl
import sys
import time
import urllib.request
from pathlib import Path

import typer

from proxy.cli.demo.files import DemoFiles, socket_path, write_files
from proxy.cli.demo.instructions import what_to_try
from proxy.cli.demo.schedulers import Child, is_free, start_luigid, start_supervisord

EXAMPLE = "PORT=9443 callgate demo --dir .demo"
READY_SECONDS = 60.0
_PAUSE_SECONDS = 0.2
_CALL_SECONDS = 5.0

DIRECTORY = typer.Option(Path(".demo"), "--dir", help="Where the demo keeps its files.")


def command(directory: Path = DIRECTORY) -> None:
    """Run a gate on https://localhost:8443 with a real luigid and supervisord behind it.

    It writes settings, a certificate, policies to edit, tokens and a worker's configuration into a
    directory. It prints commands to try, and "ready" alone on a line when calls succeed. Ctrl-C
    stops everything. PORT and LUIGID_PORT choose other ports. It listens on loopback only.
    """
    import uvloop

    port, luigid_port = _port("PORT", 8443), _port("LUIGID_PORT", 8082)
    if port == luigid_port:
        _give_up(f"PORT and LUIGID_PORT are both {port}, expected two ports. Set one of them.")
    for name, number in (("PORT", port), ("LUIGID_PORT", luigid_port)):
        if not is_free(number):
            _give_up(
                f"port {number} is in use by another program."
                f" Choose another: {name}={number + 1000} callgate demo"
            )
    absolute = directory.absolute()
    absolute.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (absolute / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _give_up(
                f"another demo runs in {directory}."
                " Choose another directory: callgate demo --dir .demo2"
            )
        metrics_port = (
            port + 1 if port < 65535 and port + 1 != luigid_port and is_free(port + 1) else 0
        )
        files = DemoFiles(absolute, port, luigid_port, metrics_port, socket_path(absolute))
        raise typer.Exit(uvloop.run(_demo(files, directory)))


def _port(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        _give_up(
            f"{name} is {text!r}, expected a port number from 1 to 65535."
            f" Write, for example, {name}={default + 1000}."
        )
    return int(text)


def _give_up(text: str) -> None:
    print(f"callgate demo: {text}", file=sys.stderr)
    raise typer.Exit(2)


async def _demo(files: DemoFiles, shown: Path) -> int:
    """Start everything, wait for a signal, and stop everything; return the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _progress(f"writing settings, policies, a certificate and tokens to {shown}/")
    write_files(files, now=time.time())
    _progress(f"starting luigid on port {files.luigid_port}, and supervisord")
    children = [
        start_luigid(files.directory, files.luigid_port),
        start_supervisord(files.directory),
    ]
    _progress(f"starting the proxy on https://localhost:{files.port}")
    gate = asyncio.create_task(_gate(files, stop))
    stopped = asyncio.create_task(stop.wait())
    try:
        ready = asyncio.create_task(_until_calls_succeed(files, children))
        await asyncio.wait({gate, stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not stop.is_set() and not gate.done():
            ready.result()
            print(what_to_try(files, shown))
            print("ready", flush=True)
            await asyncio.wait({gate, stopped}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        stop.set()
        await gate
    except _StartError as error:
        print(f"callgate demo: {error}", file=sys.stderr)
        return 2
    finally:
        stop.set()
        await asyncio.wait({gate})
        await asyncio.gather(*(child.stop() for child in children))
        if files.socket.parent != files.directory:
            files.socket.unlink(missing_ok=True)
    return 0


def _progress(text: str) -> None:
    print(text, flush=True)


class _StartError(Exception):
    """A part of the demo did not start."""


async def _gate(files: DemoFiles, stop: asyncio.Event) -> None:
    """Run the proxy in this process; its log goes to ``gate.log``."""
    from proxy.cli.file_modes import refuse_open
    from proxy.config.loading import load_settings
    from proxy.runtime.process import run
    from proxy.telemetry.logging import configure_logging

    settings = load_settings(files.settings, environ={})
    refuse_open(settings)
    # Never closed: the loop may log while it ends.
    log = (files.directory / "gate.log").open("a", buffering=1, encoding="utf-8")
    configure_logging(settings.log.level, settings.log.format, log)
    await run(settings, stop=stop)


async def _until_calls_succeed(files: DemoFiles, children: list[Child]) -> None:
    """Call both schedulers through the proxy, as a client would, until both answer."""
    last = "no call was made"
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        for child in children:
            if child.ended is not None:
                raise _StartError(
                    f"{child.name} ended at once. Its log ends with:\n{child.log_tail()}"
                )
        try:
            await asyncio.to_thread(_call_both, files)
        except OSError as error:
            last = str(error)
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
    raise _StartError(
        f"no call succeeded within {READY_SECONDS:g} seconds ({last})."
        f" Read {files.directory / 'gate.log'}."
    )


def _call_both(files: DemoFiles) -> None:
    """Make one call to luigid and one to supervisord. Raises `OSError` unless both succeed."""
    from proxy.errors import Rejected
    from proxy.protocol.xmlrpc.codec import Fault, decode_response, encode_call

    _post(files, "/api/worker_list", b"data=%7B%7D", "application/x-www-form-urlencoded")
    answer = _post(files, "/processes", encode_call("supervisor.getState", []), "text/xml")
    try:
        state = decode_response(answer)
    except Rejected as error:
        raise OSError(f"supervisord's answer is not XML-RPC ({error.reason})") from error
    if isinstance(state, Fault):
        raise OSError(f"supervisord answered with fault {state.code}")


def _post(files: DemoFiles, path: str, body: bytes, kind: str) -> bytes:
    context = ssl.create_default_context(cafile=files.directory / "ca.pem")
    headers = {"Authorization": f"Bearer {files.token('viewer')}", "Content-Type": kind}
    request = urllib.request.Request(f"https://localhost:{files.port}{path}", body, headers)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(request, timeout=_CALL_SECONDS) as answer:
        content: bytes = answer.read()
    return content
