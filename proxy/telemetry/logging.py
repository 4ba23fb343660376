"""The operator's log: one event a line on standard error, as JSON or as columns, in UTC.

Values are data, never markup: both formats escape control characters, so a caller cannot forge a
line. Values whose key could name a credential are redacted here as a last resort; no code is meant
to log one.
"""

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, TextIO, TypeAlias, cast

import orjson
import structlog

from proxy.telemetry.nonblocking_stream import NonBlockingStream

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Format: TypeAlias = Literal["json", "console"]
_Event: TypeAlias = MutableMapping[str, Any]
_CREDENTIALS = frozenset(
    {"authorization", "cookie", "credential", "key", "password", "secret", "token"}
)


def configure_logging(level: Level, format: Format, to: TextIO | None = None) -> None:
    """Send structlog's events, and the warnings and errors of libraries, to a stream.

    The stream is standard error by default. An event that cannot be written is dropped
    (`proxy.telemetry.nonblocking_stream`); the next one that can be has their number as
    `lines_lost`.
    """
    given = to or sys.stderr
    log = given if isinstance(given, NonBlockingStream) else NonBlockingStream(given)
    stream = cast(TextIO, log)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
        partial(_add_lost_count, log),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    traced: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info] if format == "json" else [_escape]
    )
    structlog.configure(
        processors=[*shared, *traced, last],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *traced, last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def log_uncaught() -> None:
    """Log what Python would print to standard error by itself, so that every line is an event.

    That is an error that ends the process or a thread, one that cannot be raised, and warnings.
    Their texts may hold what a caller sent: the class and the place are logged, and of an error
    that ends the process its text.
    """
    log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

    def crashed(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("crashed", error=kind.__name__, text=str(error), at=_places(trace))

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else ""
        error = args.exc_type.__name__
        log.error("thread crashed", thread=name, error=error, at=_places(args.exc_traceback))

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        error = args.exc_type.__name__
        log.error("error ignored", error=error, at=_places(args.exc_traceback))

    sys.excepthook = crashed
    threading.excepthook = thread_crashed
    sys.unraisablehook = unraisable
    logging.captureWarnings(True)


def _places(trace: TracebackType | None) -> list[str]:
    return [f"{frame.f_code.co_name}:{line}" for frame, line in traceback.walk_tb(trace)]


def _redact(_logger: object, _method: str, event: _Event) -> _Event:
    for key in event.keys() & _CREDENTIALS:
        event[key] = "withheld"
    return event


def _add_lost_count(
    stream: NonBlockingStream, _logger: object, _method: str, event: _Event
) -> _Event:
    """Add the number of lines dropped since the last one that was written."""
    if stream.dropped:
        event["lines_lost"] = stream.dropped
    return event


def _escape(_logger: object, _method: str, event: _Event) -> _Event:
    """Escape control characters, which the console renderer would print as they are."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = repr(value)
    return event


def _json(event: _Event, **_options: object) -> str:
    return orjson.dumps(event, default=repr).decode()
