"""Checks of values that luigid does not check, and fails on or shows to a browser.

One wrong value stops luigid or runs a script in the browser of a dashboard's user: a `priority` of
"abc" stops ``get_work`` for every worker, and the visualiser runs a tag in a `family`. Everything
else that luigid takes is accepted, or made harmless (`proxy.catalog.harmless`).
"""

import math
import re

from proxy.catalog.harmless import MAX_INT, has_no_markup
from proxy.catalog.json_types import is_json, is_scalar
from proxy.catalog.validation_cache import ValidationCache
from proxy.model import Value

MAX_NAME = 1024
"""Characters in the name of a family, resource or worker, and entries of a worker's info."""
MAX_TASK_ID = 2048
"""Characters in a task id.

A family, 50 characters of its parameters and a digest, with room for ids made by hand.
"""

# Printable ASCII without `<`, `'` and what HTML has for them.
_ORDINARY = bytes(range(0x20, 0x7F)).translate(None, b"<>\"'`&")
_ordinary_id = re.compile(rf"[{re.escape(_ORDINARY.decode())}]{{1,{MAX_TASK_ID}}}").fullmatch
# Control characters, ends of lines and paragraphs, changes of direction, half surrogates.
_UNPRINTED = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_unprinted = re.compile(f"[{_UNPRINTED}]").search
_surrogate = re.compile(r"[\ud800-\udfff]").search

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


def _is_shown(text: str) -> bool:
    """Return whether `text` is one line without a tag."""
    return _unprinted(text) is None and has_no_markup(text)


def _is_safe(text: str) -> bool:
    """Return whether a page shows `text` as it is, in one line and without markup.

    The visualiser puts names between tags, and task ids into an attribute in single quotes: there a
    quote begins attributes of the text's own, of which those with a value act.
    """
    if _is_ordinary(text):
        return True
    if not _is_shown(text):
        return False
    quote = text.find("'")
    return quote < 0 or "=" not in text[quote:]


def _is_name(text: str) -> bool:
    """Return whether `text` can be the family of a task."""
    return 0 < len(text) <= MAX_NAME and _is_safe(text)


def _is_resource(text: str) -> bool:
    """Return whether `text` can be the name of a resource, which no page has in an attribute."""
    return len(text) <= MAX_NAME and _surrogate(text) is None and has_no_markup(text)


def _is_worker_id(text: str) -> bool:
    """Return whether `text` is the id of a worker without the suffix of an identity.

    A worker is named after its machine and user. `proxy.protocol.catalog_call` escapes what could
    be taken for a suffix, or runs as markup.
    """
    return 0 < len(text) <= MAX_NAME and _surrogate(text) is None and not is_suffixed(text)


_names = ValidationCache(_is_name)
_resources = ValidationCache(_is_resource)
_modules = ValidationCache(re.compile(r"(?=.{1,1024}\Z)[\w-]+(?:\.[\w-]+)*").fullmatch)
_workers = ValidationCache(_is_worker_id)

is_resource = _resources.is_valid
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


def is_suffixed(worker: str) -> bool:
    """Return whether a worker id ends in what is the suffix of an identity, or looks like one."""
    _, bracket, suffix = worker.rpartition(" [")
    return bracket != "" and ":" in suffix


def is_suffixed_worker_id(value: Value) -> bool:
    """Return whether `value` is the id of a worker as worker_list shows it, with suffixes."""
    return type(value) is str and 0 < len(value) <= 16 * MAX_NAME and _is_shown(value)


def is_one_line(value: Value) -> bool:
    """Return whether `value` is one printable line. A signed batch id has a task id within it."""
    return type(value) is str and len(value) <= 2 * MAX_TASK_ID and _unprinted(value) is None


def is_priority(value: Value) -> bool:
    """Return whether `value` is a number that luigid can sort by and a browser can read."""
    return isinstance(value, int) or (type(value) is float and math.isfinite(value))


def is_any_number(value: Value) -> bool:
    """Return whether luigid can calculate with `value`: a number, as Python has it, or NaN."""
    return type(value) is float or (isinstance(value, int) and -MAX_INT <= value <= MAX_INT)


def is_plain_json(value: Value) -> bool:
    """Return whether `value` is of JSON as a browser reads it: no number is infinite."""
    return is_json(value) and _all_finite(value)


def is_status(value: Value) -> bool:
    """Return whether `value` is the status of a task."""
    return type(value) is str and value in _STATUSES


def is_status_filter(value: Value) -> bool:
    """Return whether `value` is the status of a task, or empty."""
    return type(value) is str and (not value or value in _STATUSES)


def is_upstream_status_filter(value: Value) -> bool:
    """Return whether `value` says what a task waits for, or is empty."""
    return type(value) is str and (not value or value in _UPSTREAM_STATUSES)


def is_params(value: Value) -> bool:
    """Return whether `value` is an object of parameter names and values that browsers read."""
    return type(value) is dict and all(
        type(item) is str or is_plain_json(item) for item in value.values()
    )


def is_search(value: Value) -> bool:
    """Return whether `value` is an object of names and plain values, which a page repeats."""
    return type(value) is dict and _names.all_valid(value) and all(map(is_scalar, value.values()))


def is_visibilities(value: Value) -> bool:
    """Return whether `value` is an object of parameter names and visibilities."""
    return type(value) is dict and all(map(_is_visibility, value.values()))


def is_resources(value: Value) -> bool:
    """Return whether `value` is an object of resource names and non-negative finite numbers."""
    return (
        type(value) is dict and _resources.all_valid(value) and all(map(_is_share, value.values()))
    )


def is_retry_policy(value: Value) -> bool:
    """Return whether `value` is luigi's retry policy: three optional numbers."""
    if type(value) is not dict or not _RETRY_KEYS.issuperset(value):
        return False
    return all(limit is None or is_any_number(limit) for limit in value.values())


def is_worker_info(value: Value) -> bool:
    """Return whether `value` is an object, or pairs, of names and values about a worker."""
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
    if isinstance(value, int):
        return 0 <= value <= MAX_INT
    return type(value) is float and value >= 0 and math.isfinite(value)


def _is_info_entry(key: Value, value: Value) -> bool:
    if type(key) is not str or key in _SCHEDULER_INFO_KEYS:
        return False
    # get_work counts this number down for every worker: text in it answers all of them with 500.
    return isinstance(value, int) if key == "workers" else is_plain_json(value)


def _all_finite(value: Value) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_all_finite, value))
    return not isinstance(value, dict) or all(map(_all_finite, value.values()))
