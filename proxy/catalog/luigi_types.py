"""Checks of values that luigid does not check, and fails on or shows to a browser.

One wrong value stops luigid or runs a script in the browser of a dashboard's user: a `priority` of
"abc" stops ``get_work`` for every worker, and the visualiser runs a tag in a `family`. So the
checks are as narrow as the stock clients allow.
"""

import re

from proxy.catalog.json_types import (
    INTEGER_LIMIT,
    is_finite,
    is_number,
    is_scalar,
    is_unsigned,
)
from proxy.catalog.validation_cache import ValidationCache
from proxy.model import Value

MAX_NAME = 256
"""Characters in the name of a family, parameter, resource or worker.

Stock names stay under 200; a column of luigid's database has 250.
"""
MAX_TASK_ID = 1024
"""Characters in a task id.

A family, 48 characters of its parameters and a digest, with room for ids made by hand.
"""

_markup = re.compile(r"[<>\"'`&]").search
# Printable ASCII without what `_markup` finds.
_ORDINARY = bytes(range(0x20, 0x7F)).translate(None, b"<>\"'`&")
_ordinary_id = re.compile(rf"[{re.escape(_ORDINARY.decode())}]{{1,{MAX_TASK_ID}}}").fullmatch
_url = re.compile(r"(?i:https?)://[^\s\x00-\x20\x7f-\x9f<>\"'`\\\ud800-\udfff]{1,4096}").fullmatch

# Names in a worker's info that the scheduler sets itself.
_SCHEDULER_INFO_KEYS = frozenset(
    (
        # count_pending puts the worker's own values in the place of these two.
        *("task_id", "worker"),
        # worker_list passes these together with the worker's own: an equal name there is a
        # TypeError, and 500 for every dashboard.
        *("name", "last_active", "started", "state", "first_task_display_name"),
        *("num_unread_rpc_messages", "num_running", "num_pending", "num_uniques", "running"),
        # luigid's own mark of a worker that may run the tasks of every worker. It follows from
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
_RETRY_KEYS = frozenset(("retry_count", "disable_hard_timeout", "disable_window"))


def _is_ordinary(text: str) -> bool:
    """Return whether `text` is of ordinary characters alone."""
    # PERF: a translation instead of a pattern saves 10 us of 21 (add_task 100 kB in 1,000 parts).
    return text.isascii() and not text.encode("ascii").translate(None, _ORDINARY)


def _is_safe(text: str) -> bool:
    """Return whether `text` is printable and holds no character of HTML's markup.

    Control characters and half surrogates are not printable.
    """
    return _is_ordinary(text) or (text.isprintable() and _markup(text) is None)


def _is_worker_id(text: str) -> bool:
    """Return whether `text` is the id of a worker without a suffix.

    A worker is named after its machine and user. Letters may be of any script; other characters
    are ASCII, so that nothing resembles the ``[`` of a suffix.
    """
    if not 0 < len(text) <= MAX_NAME or text.strip(" ") != text or "[" in text:
        return False
    return _is_ordinary(text) or (
        _is_safe(text) and all(character.isascii() or character.isalnum() for character in text)
    )


_names = ValidationCache(re.compile(rf"[\w.]{{1,{MAX_NAME}}}").fullmatch)
_parameter_names = ValidationCache(re.compile(rf"[\w.-]{{1,{MAX_NAME}}}").fullmatch)
_modules = ValidationCache(re.compile(r"(?=.{1,1024}\Z)[\w-]+(?:\.[\w-]+)*").fullmatch)
_workers = ValidationCache(_is_worker_id)

is_resource = _names.is_valid
is_module = _modules.is_valid
is_worker_id = _workers.is_valid


def is_family(value: Value) -> bool:
    """Return whether `value` is the family of a task, or empty."""
    return value == "" or _names.is_valid(value)


def is_task_id(value: Value) -> bool:
    """Return whether `value` is a task id: printable and without markup."""
    return type(value) is str and (
        _ordinary_id(value) is not None or (0 < len(value) <= MAX_TASK_ID and _is_safe(value))
    )


def is_task_id_list(value: Value) -> bool:
    """Return whether `value` is a list of task ids."""
    if type(value) is not list:
        return False
    if not value:
        return True
    try:
        joined = "".join(value)  # type: ignore[arg-type]  # raises for items that are no text
    except TypeError:
        return False
    # PERF: one check of all ids saves 90 us of 120 (add_task 100 kB in 1,000 parts).
    if all(value):
        if _ordinary_id(joined) is not None:  # and together no longer than one id may be
            return True
        longest = max(map(len, value))  # type: ignore[arg-type]  # texts, as just seen
        if longest <= MAX_TASK_ID and _is_ordinary(joined):
            return True
    return all(map(is_task_id, value))


def is_suffixed_worker_id(value: Value) -> bool:
    """Return whether `value` is the id of a worker as worker_list shows it, with suffixes."""
    return type(value) is str and 0 < len(value) <= 16 * MAX_NAME and _is_safe(value)


def is_one_line(value: Value) -> bool:
    """Return whether `value` is one printable line. A signed batch id has a task id within it."""
    return type(value) is str and len(value) <= 2 * MAX_TASK_ID and value.isprintable()


def is_status(value: Value) -> bool:
    """Return whether `value` is the status of a task."""
    return type(value) is str and value in _STATUSES


def is_status_filter(value: Value) -> bool:
    """Return whether `value` is the status of a task, or empty."""
    return type(value) is str and (not value or value in _STATUSES)


def is_upstream_status_filter(value: Value) -> bool:
    """Return whether `value` says what a task waits for, or is empty."""
    return type(value) is str and (not value or value in _UPSTREAM_STATUSES)


def is_web_url(value: Value) -> bool:
    """Return whether `value` is a URL of http or https, or empty."""
    return type(value) is str and (not value or _url(value) is not None)


def is_params(value: Value) -> bool:
    """Return whether `value` is an object of parameter names and scalars."""
    return (
        type(value) is dict
        and _parameter_names.all_valid(value)
        and all(map(is_scalar, value.values()))
    )


def is_visibilities(value: Value) -> bool:
    """Return whether `value` is an object of parameter names and visibilities."""
    return (
        type(value) is dict
        and _parameter_names.all_valid(value)
        and all(map(_is_visibility, value.values()))
    )


def is_resources(value: Value) -> bool:
    """Return whether `value` is an object of resource names and non-negative finite numbers."""
    return type(value) is dict and _names.all_valid(value) and all(map(_is_share, value.values()))


def is_retry_policy(value: Value) -> bool:
    """Return whether `value` is luigi's retry policy: three optional numbers."""
    if type(value) is not dict or not _RETRY_KEYS.issuperset(value):
        return False
    return all(limit is None or is_number(limit) for limit in value.values())


def is_worker_info(value: Value) -> bool:
    """Return whether `value` is an object, or pairs, of names and scalars about a worker."""
    if isinstance(value, dict):
        return len(value) <= MAX_NAME and all(
            _is_info_entry(key, item) for key, item in value.items()
        )
    if isinstance(value, list):
        return len(value) <= MAX_NAME and all(
            isinstance(pair, list) and len(pair) == 2 and _is_info_entry(*pair) for pair in value
        )
    return False


def _is_visibility(value: Value) -> bool:
    return type(value) is int and 0 <= value <= 2  # luigi.parameter.ParameterVisibility


def _is_share(value: Value) -> bool:
    if type(value) is int:
        return 0 <= value < INTEGER_LIMIT
    return type(value) is float and value >= 0 and is_finite(value)


def _is_info_entry(key: Value, value: Value) -> bool:
    if type(key) is not str or not _parameter_names.is_valid(key) or key in _SCHEDULER_INFO_KEYS:
        return False
    # get_work counts this number down for every worker: text in it answers all of them with 500.
    return is_unsigned(value) if key == "workers" else is_scalar(value)
