"""The gate's log: one event a line on standard error, JSON for machines or columns for people, UTC times.

Values are data, never markup: JSON escapes control characters, and so does the console form (as ``repr`` does), so a
caller cannot forge a line. Keys that could carry a credential are withheld here as a last resort; no caller of this
module is meant to pass one.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO, TypeAlias

import orjson
import structlog

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Form: TypeAlias = Literal["json", "console"]
_Event: TypeAlias = MutableMapping[str, Any]

_CREDENTIALS = frozenset({"authorization", "cookie", "credential", "key", "password", "secret", "token"})


def set_up_logging(level: Level, form: Form, stream: TextIO = sys.stderr) -> None:
    """Send structlog's events, and those of libraries from warnings upwards, to `stream`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _withhold,
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    traced: list[structlog.typing.Processor] = [structlog.processors.format_exc_info] if form == "json" else [_escape]
    structlog.configure(
        processors=[*shared, *traced, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *traced, last]
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _withhold(_logger: object, _method: str, event: _Event) -> _Event:
    for key in event.keys() & _CREDENTIALS:
        event[key] = "withheld"
    return event


def _escape(_logger: object, _method: str, event: _Event) -> _Event:
    """Escape what would move a terminal's cursor: the console form prints text as it is."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = repr(value)
    return event


def _json(event: _Event, **_options: object) -> str:
    return orjson.dumps(event, default=repr).decode()
