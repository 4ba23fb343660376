"""The types an argument can have in a catalog: what is accepted, how a refusal words it, what
policies see of it.

A scheduler that checks nothing is brought down, or made to run a script in a dashboard user's
browser, by one argument of the wrong shape (luigid: a `priority` of "abc" stops ``get_work`` for
every worker, a `family` holding a tag runs in the visualiser). So the types here are as narrow as
the stock clients allow, and no narrower: each row says why.

A type judges a value that is not null; whether null may stand for it is the argument's own matter
(`nullable`). ``True`` is never an integer or a number here, although Python thinks so. NaN is
nothing, and Infinity only a `number`: luigid would echo it in JSON that no browser parses.
"""

import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from proxy.catalog.validation_cache import Known
from proxy.model import Value

PolicyType: TypeAlias = Literal["string", "boolean", "integer", "strings"]
"""What a policy can compare: text, truth, a whole number of 64 bits, a set of texts."""

MAX_NAME = 256
"""Characters in a family, parameter, resource or worker name. Stock ones stay under 200; a database
column has 250.
"""
MAX_TASK_ID = 1024
"""Characters in a task id: a family, 3 x 16 of its parameters and a digest, with room for hand-made
ids.
"""
MAX_DEPTH = 32
"""Levels of nesting in a free-form value. Stock clients send at most two."""

_INTEGER_LIMIT = 1 << 63

_names = Known(re.compile(rf"[\w.]{{1,{MAX_NAME}}}").fullmatch)
_parameter_names = Known(re.compile(rf"[\w.-]{{1,{MAX_NAME}}}").fullmatch)
_modules = Known(re.compile(r"(?=.{1,1024}\Z)[\w-]+(?:\.[\w-]+)*").fullmatch)
_url = re.compile(r"(?i:https?)://[^\s\x00-\x20\x7f-\x9f<>\"'`\\\ud800-\udfff]{1,4096}").fullmatch
_markup = re.compile(r"[<>\"'`&]").search
# printable ASCII without what `_markup` finds
_PLAIN = bytes(range(0x20, 0x7F)).translate(None, b"<>\"'`&")
_plain_id = re.compile(rf"[{re.escape(_PLAIN.decode())}]{{1,{MAX_TASK_ID}}}").fullmatch
_tag = re.compile(r"<[A-Za-z/!?]")

_INFO_KEYS_OF_THE_SCHEDULER = frozenset(
    (
        # count_pending lets the worker's own values stand in the place of these two.
        *("task_id", "worker"),
        # worker_list sets these beside the worker's own: a second one of a name is a TypeError, 500
        # for every dashboard.
        *(
            "name",
            "last_active",
            "started",
            "state",
            "first_task_display_name",
            "num_unread_rpc_messages",
        ),
        *("num_running", "num_pending", "num_uniques", "running"),
        # luigid's own mark for a worker that may run anybody's task; it follows from
        # get_work(assistant=true).
        "assistant",
    )
)
_STATUSES = frozenset(
    ("PENDING", "FAILED", "DONE", "RUNNING", "BATCH_RUNNING", "SUSPENDED", "UNKNOWN", "DISABLED")
)
_UPSTREAM_STATUSES = frozenset(
    ("UPSTREAM_RUNNING", "UPSTREAM_MISSING_INPUT", "UPSTREAM_FAILED", "UPSTREAM_DISABLED")
)
_EVERY_SCALAR = frozenset((str, bool, type(None)))  # of numbers, some are none that luigid can use
_INTEGER = frozenset((int,))  # not bool
_LEVELS = frozenset((0, 1, 2))  # luigi.parameter.ParameterVisibility
_RETRY_KEYS = frozenset(("retry_count", "disable_hard_timeout", "disable_window"))


@dataclass(frozen=True, slots=True)
class ArgumentType:
    """One type: `accepts` says whether a value (never null) is of it, `phrase` completes "must be
    …" in ASCII.

    `settled` are the Python types of which every value is accepted, so that it need not be asked.
    `known` has, for some others, values that are: to look one up takes no call. It holds only for
    values of exactly that type, since ``True in range(2)`` is true, and a number with a point would
    be looked for one by one.
    """

    phrase: str
    accepts: Callable[[Value], bool]
    policy_type: PolicyType | None = None
    settled: frozenset[type] = frozenset()
    known: Mapping[type, Container[object]] = field(default_factory=dict)


def _string(value: Value) -> bool:
    return type(value) is str


def _boolean(value: Value) -> bool:
    return type(value) is bool


def _integer(value: Value) -> bool:
    return type(value) is int and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT


def _amount(value: Value) -> bool:
    return type(value) is int and 0 <= value < _INTEGER_LIMIT


def _number(value: Value) -> bool:
    if type(value) is int:
        return -_INTEGER_LIMIT <= value < _INTEGER_LIMIT
    return type(value) is float and not math.isnan(value)


def _finite(value: Value) -> bool:
    if type(value) is int:
        return -_INTEGER_LIMIT <= value < _INTEGER_LIMIT
    return type(value) is float and math.isfinite(value)


def _positive(value: Value) -> bool:
    return _number(value) and value > 0  # type: ignore[operator]  # _number leaves int and float only


def _strings(value: Value) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _object(value: Value) -> bool:
    return type(value) is dict


def _any(value: Value) -> bool:
    return True


def _json(value: Value, depth: int = MAX_DEPTH) -> bool:
    kind = type(value)
    if kind is str or kind is bool or value is None or kind is int:
        return True
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, list):
        return depth > 0 and all(_json(item, depth - 1) for item in value)
    return (
        isinstance(value, dict)
        and depth > 0
        and all(_json(item, depth - 1) for item in value.values())
    )


def _scalar(value: Value) -> bool:
    kind = type(value)
    return kind is str or kind is bool or value is None or _finite(value)


def _family(value: Value) -> bool:
    return value == "" or _names.is_good(value)


def _is_plain(text: str) -> bool:
    """Whether `text` is of the usual signs alone. For ten ids together twice as quick as a pattern,
    for thousands five times.
    """
    return text.isascii() and not text.encode("ascii").translate(None, _PLAIN)


def _safe(text: str) -> bool:
    """Whether `text` is printable (no control characters, no half surrogates) and holds nothing
    that HTML reads.
    """
    return _is_plain(text) or (text.isprintable() and _markup(text) is None)


def _task_id(value: Value) -> bool:
    return type(value) is str and (
        _plain_id(value) is not None or (0 < len(value) <= MAX_TASK_ID and _safe(value))
    )


def _task_ids(value: Value) -> bool:
    if type(value) is not list:
        return False
    try:
        together = "".join(value)  # type: ignore[arg-type]  # what else stands in it raises
    except TypeError:
        return False
    # A few dependencies or thousands: all their signs at once.
    if all(value):
        if _plain_id(together) is not None:  # and no longer than one may be
            return True
        if max(map(len, value), default=0) <= MAX_TASK_ID and _is_plain(together):  # type: ignore[arg-type]  # texts, as just seen
            return True
    return all(map(_task_id, value))


def _worker_id(text: str) -> bool:
    """A worker names itself by its machine and user: letters of any script, else ASCII, so that
    nothing looks like a mark.
    """
    if not 0 < len(text) <= MAX_NAME or text.strip(" ") != text or "[" in text:
        return False
    return _is_plain(text) or (
        _safe(text) and all(character.isascii() or character.isalnum() for character in text)
    )


_workers = Known(_worker_id)


def _listed_worker(value: Value) -> bool:
    return type(value) is str and 0 < len(value) <= 16 * MAX_NAME and _safe(value)


def _one_line(value: Value) -> bool:
    return type(value) is str and len(value) <= MAX_TASK_ID and value.isprintable()


def _status(value: Value) -> bool:
    return type(value) is str and value in _STATUSES


def _status_filter(value: Value) -> bool:
    return type(value) is str and (not value or value in _STATUSES)


def _upstream_status_filter(value: Value) -> bool:
    return type(value) is str and (not value or value in _UPSTREAM_STATUSES)


def _web_url(value: Value) -> bool:
    return type(value) is str and (not value or _url(value) is not None)


# Below, all(map(...)) and sets, not all(... for ...): half the time and less, and every add_task
# brings four of these objects.


def _params(value: Value) -> bool:
    if type(value) is not dict or not (
        _parameter_names.good.issuperset(value) or _parameter_names.are_good(value)
    ):
        return False
    return _EVERY_SCALAR.issuperset(map(type, value.values())) or all(map(_scalar, value.values()))


def _visibilities(value: Value) -> bool:
    if type(value) is not dict or not (
        _parameter_names.good.issuperset(value) or _parameter_names.are_good(value)
    ):
        return False
    return _INTEGER.issuperset(map(type, value.values())) and _LEVELS.issuperset(
        cast(dict[str, int], value).values()
    )


def _share(value: Value) -> bool:
    if type(value) is int:
        return 0 <= value < _INTEGER_LIMIT
    return type(value) is float and 0 <= value < math.inf


def _resources(value: Value) -> bool:
    return type(value) is dict and (
        not value or (_names.are_good(value) and all(map(_share, value.values())))
    )


def _retry_policy(value: Value) -> bool:
    if type(value) is not dict or not _RETRY_KEYS.issuperset(value):
        return False
    for limit in value.values():
        if type(limit) is int:
            if not -_INTEGER_LIMIT <= limit < _INTEGER_LIMIT:
                return False
        elif limit is not None and not _number(limit):
            return False
    return True


def _info_entry(key: Value, value: Value) -> bool:
    if (
        type(key) is not str
        or not _parameter_names.is_good(key)
        or key in _INFO_KEYS_OF_THE_SCHEDULER
    ):
        return False
    # get_work counts this number down for every worker: a text here answers all of them with 500.
    return _amount(value) if key == "workers" else _scalar(value)


def _worker_info(value: Value) -> bool:
    if isinstance(value, dict):
        return len(value) <= MAX_NAME and all(_info_entry(key, item) for key, item in value.items())
    if isinstance(value, list):
        return len(value) <= MAX_NAME and all(
            isinstance(pair, list) and len(pair) == 2 and _info_entry(*pair) for pair in value
        )
    return False


def _markup_free(value: Value, depth: int = MAX_DEPTH) -> bool:
    if isinstance(value, str):
        return _tag.search(value) is None
    if isinstance(value, list):
        return depth > 0 and all(_markup_free(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(
            _markup_free(key, 0) and _markup_free(item, depth - 1) for key, item in value.items()
        )
    return _scalar(value)


_NO_ITEMS: Mapping[type, Container[object]] = {list: ([],)}
_NO_NAMES: Mapping[type, Container[object]] = {dict: ({},)}
_INTEGERS: Mapping[type, Container[object]] = {int: range(-_INTEGER_LIMIT, _INTEGER_LIMIT)}
_AMOUNTS: Mapping[type, Container[object]] = {int: range(_INTEGER_LIMIT)}

TYPES: Mapping[str, ArgumentType] = {
    # What every protocol has.
    "string": ArgumentType("a string", _string, "string", frozenset((str,))),
    "boolean": ArgumentType("true or false", _boolean, "boolean", frozenset((bool,))),
    "integer": ArgumentType("an integer of 64 bits", _integer, "integer", known=_INTEGERS),
    "amount": ArgumentType("a non-negative integer", _amount, "integer", known=_AMOUNTS),
    "number": ArgumentType("a number", _number, known=_INTEGERS),
    "finite": ArgumentType("a finite number", _finite, known=_INTEGERS),
    "positive": ArgumentType("a number above zero", _positive),
    "strings": ArgumentType("a list of strings", _strings, "strings", known=_NO_ITEMS),
    "object": ArgumentType("an object", _object, settled=frozenset((dict,))),
    "json": ArgumentType(
        f"a JSON value of at most {MAX_DEPTH} levels", _json, settled=frozenset((str, bool, int))
    ),
    "any": ArgumentType("a value", _any),
    # What luigid does not check, and breaks on or shows to a browser.
    "family": ArgumentType(
        "a task family of letters, digits, _ and .", _family, "string", known={str: _names.good}
    ),
    "task-id": ArgumentType("a task id without control characters and markup", _task_id, "string"),
    "task-ids": ArgumentType(
        "a list of task ids without control characters and markup",
        _task_ids,
        "strings",
        known=_NO_ITEMS,
    ),
    "module": ArgumentType(
        "a dotted module name", _modules.is_good, "string", known={str: _modules.good}
    ),
    "worker": ArgumentType(
        f"a worker id of at most {MAX_NAME} letters, digits and ASCII signs other than [ and markup",
        _workers.is_good,
        "string",
        known={str: _workers.good},
    ),
    "listed-worker": ArgumentType("a worker id as worker_list shows it", _listed_worker, "string"),
    "one-line": ArgumentType("one line of text", _one_line, "string"),
    "status": ArgumentType("a task status", _status, "string", known={str: _STATUSES}),
    "status-filter": ArgumentType("a task status or empty", _status_filter, "string"),
    "upstream-status-filter": ArgumentType(
        "an upstream status or empty", _upstream_status_filter, "string"
    ),
    "url": ArgumentType("an http or https URL", _web_url, "string"),
    "resource": ArgumentType(
        "a resource name of letters, digits, _ and .",
        _names.is_good,
        "string",
        known={str: _names.good},
    ),
    "resources": ArgumentType(
        "an object of resource names and non-negative numbers", _resources, known=_NO_NAMES
    ),
    "params": ArgumentType(
        "an object of parameter names and plain values", _params, known=_NO_NAMES
    ),
    "visibilities": ArgumentType(
        "an object of parameter names and 0, 1 or 2", _visibilities, known=_NO_NAMES
    ),
    "retry-policy": ArgumentType(
        "an object of retry_count, disable_hard_timeout and disable_window",
        _retry_policy,
        known=_NO_NAMES,
    ),
    "worker-info": ArgumentType(
        "an object, or pairs, of plain values under names that are not the scheduler's own",
        _worker_info,
    ),
    "markup-free": ArgumentType("free of markup", _markup_free),
}
"""Every type a catalog may name."""


def without_markup(value: Value, depth: int = MAX_DEPTH) -> Value:
    """Turn every ``<`` that would start a tag into ``&lt;``; the same value, and the same object,
    when there is none.

    For texts that a page shows through ``innerHTML``: ``<class 'x'>`` is then read there as the
    worker wrote it. Deeper than `depth` levels nothing is changed, and the type `markup-free`
    refuses it.
    """
    if isinstance(value, str):
        return _tag.sub(lambda found: "&lt;" + found[0][1:], value) if _tag.search(value) else value
    if depth <= 0 or not isinstance(value, (list, dict)) or _markup_free(value, depth):
        return value
    if isinstance(value, list):
        return [without_markup(item, depth - 1) for item in value]
    return {
        str(without_markup(key)): without_markup(item, depth - 1) for key, item in value.items()
    }
