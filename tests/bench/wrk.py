"""The client: wrk with a script that sets verb, headers and body, and prints what it counted as one
JSON line.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """\
local file = io.open(%(body)s, "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = %(type)s
wrk.headers["Authorization"] = %(authorization)s
"""
DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"calls":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one run of the client saw: calls answered, seconds it took, p50 and p99 in milliseconds,
    and what failed.
    """

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


def script(
    directory: Path, name: str, body: bytes, content_type: str, token: str, *, pause_ms: int = 0
) -> Path:
    """Write the script for one kind of call. With `pause_ms` each connection rests that long after
    an answer.
    """
    body_file = directory / f"{name}.body"
    body_file.write_bytes(body)
    path = directory / f"{name}.lua"
    parts = {
        "body": json.dumps(str(body_file)),
        "type": json.dumps(content_type),
        "authorization": json.dumps(f"Bearer {token}"),
    }
    rest = f"delay = function() return {pause_ms} end\n" if pause_ms else ""
    path.write_text(_SCRIPT % parts + rest + DONE)
    return path


def run_wrk(
    wrk: str, url: str, lua: Path, *, seconds: float, connections: int, core: str | None
) -> Counted:
    """Call `url` as fast as it answers, for about `seconds`, on kept-alive connections. Raises
    RuntimeError when wrk fails.
    """
    pinned = ["taskset", "-c", core] if core is not None else []
    whole = max(1, round(seconds))  # wrk counts in whole seconds
    command = [
        *pinned,
        wrk,
        "-t",
        "1",
        "-c",
        str(connections),
        "-d",
        f"{whole}s",
        "--timeout",
        "30s",
        "-s",
        str(lua),
        url,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=whole + 90)
    for line in ran.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            return Counted(
                row["calls"], row["us"] / 1e6, row["p50"] / 1e3, row["p99"] / 1e3, row["errors"]
            )
    raise RuntimeError(f"wrk failed: {ran.stdout}{ran.stderr}")
