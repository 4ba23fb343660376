"""The token check that runs in mitmproxy: verify (remembered), look for the method with a regular
expression, log a line.

It is loaded by mitmdump, in a virtual environment of its own; its settings come by environment.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import jwt
from mitmproxy import http  # type: ignore[import-not-found]  # it lives in an environment of its own

_KEY = Path(os.environ["BENCH_PUBLIC"]).read_text()
_LOG = Path(os.environ["BENCH_LOG"]).open("a", buffering=1)  # noqa: SIM115  (open for as long as mitmdump runs)
_ALLOWED = {"ping", "add_task", "queue.ping", "queue.add_task"}
_API = re.compile(r"/api/([a-z_]+)$")
_FORM = re.compile(rb"^data=%7B%22[a-z_]+%22%3A")
_METHOD = re.compile(rb"<methodName>([A-Za-z0-9_.:/]+)</methodName>")
_seen: dict[str, dict[str, Any]] = {}


def _claims(header: str) -> dict[str, Any] | None:
    found = _seen.get(header)
    if found is None:
        try:
            found = jwt.decode(
                header.removeprefix("Bearer "),
                _KEY,
                ["RS256"],
                issuer=os.environ["BENCH_ISSUER"],
                audience=os.environ["BENCH_AUDIENCE"],
            )
        except jwt.PyJWTError:
            return None
        _seen[header] = found
    return found if found["exp"] > time.time() else None


def request(flow: http.HTTPFlow) -> None:
    """Decide on a request whose body is there."""
    claims = _claims(flow.request.headers.get("authorization", ""))
    if claims is None:
        flow.response = http.Response.make(401, b"no")
        return
    body = flow.request.raw_content or b""
    path = flow.request.path
    api = _API.search(path)
    if api is not None:
        method = api[1] if _FORM.match(body) else ""
    else:
        named = _METHOD.search(body)
        method = named[1].decode() if named else ""
    if method not in _ALLOWED:
        flow.response = http.Response.make(403, b"denied")
        return
    if path.startswith("/luigid/"):
        flow.request.path = path.removeprefix("/luigid")
        flow.request.port = int(os.environ["BENCH_LUIGID"])
    flow.metadata["subject"] = claims["sub"]


def response(flow: http.HTTPFlow) -> None:
    """Write the line of an answered call."""
    assert flow.response is not None
    line = {
        "subject": flow.metadata.get("subject"),
        "path": flow.request.path,
        "status": flow.response.status_code,
        "time": time.time(),
    }
    _LOG.write(json.dumps(line) + "\n")
