"""The format of the operator's log, and what it never shows."""

import io
import json
import logging
import os
import re
import subprocess
import sys

import pytest
import structlog

from proxy.telemetry.logging import Format, configure_logging
from proxy.telemetry.nonblocking_stream import NonBlockingStream
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def test_an_event_is_one_json_line_with_a_utc_time() -> None:
    """A line is one object with event, level and a timestamp in UTC."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    structlog.get_logger("proxy").info("serving", port=8443, ref="7Q2M")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event.pop("timestamp"))
    assert event == {"event": "serving", "level": "info", "port": 8443, "ref": "7Q2M"}


def test_events_below_the_level_are_not_written() -> None:
    """The setting log.level is the lowest level that is written."""
    stream = io.StringIO()
    configure_logging("warning", "json", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "text", ['x\n{"event":"forged"}', "x\r\nforged", "x\x1b[2Jforged", "x\x00\x7f", "x\u2028forged"]
)
def test_a_value_cannot_forge_a_line(log_format: Format, text: str) -> None:
    """A user agent or subject stays one value on one line, without control characters."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    structlog.get_logger().info("rejected", user_agent=text)
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", written)


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("key", ["authorization", "cookie", "token", "password", "secret"])
def test_a_credential_is_redacted_by_its_key(log_format: Format, key: str) -> None:
    """A last resort, for code that logs a credential by mistake."""
    stream = io.StringIO()
    configure_logging("debug", log_format, stream)
    structlog.get_logger().debug("called", **{key: "eyJhbGciOi"})
    assert "eyJ" not in stream.getvalue()
    assert "withheld" in stream.getvalue()


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError,
        OSError(28, "No space left on device"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_a_line_that_cannot_be_written_is_dropped(error: Exception | type[Exception]) -> None:
    """A dead reader or a full disk raises nothing, for our events and for those of libraries."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

    stream = Broken()
    configure_logging("info", "json", stream)
    structlog.get_logger().info("denied")
    logging.getLogger("asyncio").error("a task failed")
    assert NonBlockingStream(stream).write("line") == 4
    assert NonBlockingStream(stream).isatty() is False


def test_events_of_libraries_have_the_same_format() -> None:
    """An error of asyncio is a JSON line too, with its traceback inside."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("asyncio").exception("a task failed")
    logging.getLogger("asyncio").info("not written")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"]) == ("a task failed", "error")
    assert "ValueError: broken" in event["exception"]


def test_an_exception_is_one_line_without_local_variables() -> None:
    """Local variables can hold a token, so tracebacks omit them."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    bearer = "eyJ" + "hbGciOi"
    try:
        raise ValueError(len(bearer))
    except ValueError:
        structlog.get_logger().exception("internal error")
    (line,) = stream.getvalue().splitlines()
    assert bearer not in line
    assert "ValueError: 10" in json.loads(line)["exception"]


def test_the_console_format_shows_no_local_variables_either() -> None:
    """Rich tracebacks would print them; the plain ones do not."""
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    bearer = "eyJ" + "hbGciOi"
    try:
        raise ValueError(len(bearer))
    except ValueError:
        structlog.get_logger().exception("internal error")
    assert bearer not in stream.getvalue()
    assert "ValueError: 10" in stream.getvalue()


HOOKS = """
import logging, sys, threading, warnings
from proxy.telemetry.logging import configure_logging, log_uncaught
configure_logging("info", "json")
log_uncaught()
class Bad:
    def __del__(self):
        raise ValueError("held-by-the-caller")
def fail():
    raise KeyError("held-by-the-caller")
warnings.warn("a warning")
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
Bad()
raise RuntimeError("the end")
"""


@pytest.mark.process
def test_what_python_prints_by_itself_is_an_event() -> None:
    """Warnings, and errors of threads, of finalizers and of the program: every line of the log is
    JSON, and only the last has the text of its error.
    """
    done = subprocess.run(
        [sys.executable, "-c", HOOKS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert "a warning" in events[0]["event"]
    assert [event["event"] for event in events[1:]] == [
        "thread crashed",
        "error ignored",
        "crashed",
    ]
    assert (events[1]["thread"], events[1]["error"]) == ("worker", "KeyError")
    assert events[1]["at"][-1].startswith("fail:")
    assert events[3]["text"] == "the end"
    assert "held-by-the-caller" not in done.stderr
