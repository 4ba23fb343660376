"""The types that an argument can have in a catalog.

A type judges a value that is not null. Whether null is accepted is the argument's own setting
(`nullable`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from proxy.catalog import harmless, json_types, luigi_types
from proxy.catalog.json_types import MAX_DEPTH
from proxy.catalog.luigi_types import MAX_NAME
from proxy.model import Value

PolicyType: TypeAlias = Literal["string", "boolean", "integer", "strings"]
"""A type that policies can compare: text, truth, an integer of 64 bits, a set of texts."""


@dataclass(frozen=True, slots=True)
class ArgumentType:
    """One type of argument.

    `phrase` completes "must be …" in ASCII. `accepts` returns whether a value is of the type; the
    value is never null. `policy_type` is None where policies cannot read the value: numbers with a
    point, objects and lists of them. `mend` makes a value harmless that luigid would take, and
    returns any other as it is.
    """

    phrase: str
    accepts: Callable[[Value], bool]
    policy_type: PolicyType | None = None
    mend: Callable[[Value], Value] | None = None


TYPES: Mapping[str, ArgumentType] = {
    # Of every protocol.
    "string": ArgumentType("a string", json_types.is_string, "string"),
    "boolean": ArgumentType("true or false", json_types.is_boolean, "boolean"),
    "integer": ArgumentType("an integer of 64 bits", json_types.is_integer, "integer"),
    "unsigned": ArgumentType("a non-negative integer", json_types.is_unsigned, "integer"),
    "number": ArgumentType("a number", json_types.is_number),
    "finite": ArgumentType("a finite number", json_types.is_finite),
    "positive": ArgumentType("a number above zero", json_types.is_positive),
    "string-list": ArgumentType("a list of strings", json_types.is_string_list, "strings"),
    "object": ArgumentType("an object", json_types.is_object),
    "json": ArgumentType(
        f"a JSON value of at most {MAX_DEPTH} levels",
        json_types.is_json,
        mend=harmless.spell_numbers,
    ),
    "any": ArgumentType("a value", json_types.is_anything),
    # Of luigid.
    "family": ArgumentType(
        "a task family without control characters and markup", luigi_types.is_family, "string"
    ),
    "task-id": ArgumentType(
        "a task id without control characters and markup", luigi_types.is_task_id, "string"
    ),
    "task-ids": ArgumentType(
        "a list of task ids without control characters and markup",
        luigi_types.is_task_id_list,
        "strings",
    ),
    "module": ArgumentType(
        "a dotted module name", luigi_types.is_module, "string", mend=harmless.drop
    ),
    "worker-id": ArgumentType(
        f"a worker id of at most {MAX_NAME} characters, without the suffix of Callgate",
        luigi_types.is_worker_id,
        "string",
    ),
    "suffixed-worker-id": ArgumentType(
        "a worker id as worker_list shows it", luigi_types.is_suffixed_worker_id, "string"
    ),
    "one-line": ArgumentType("one line of text", luigi_types.is_one_line, "string"),
    "flag": ArgumentType("true or false", json_types.is_boolean, "boolean", harmless.mend_flag),
    "priority": ArgumentType("a number", luigi_types.is_priority, mend=harmless.mend_priority),
    "progress": ArgumentType(
        f"a JSON value of at most {MAX_DEPTH} levels",
        luigi_types.is_plain_json,
        mend=harmless.mend_progress,
    ),
    "status": ArgumentType("a task status", luigi_types.is_status, "string"),
    "status-filter": ArgumentType("a task status or empty", luigi_types.is_status_filter, "string"),
    "upstream-status-filter": ArgumentType(
        "an upstream status or empty", luigi_types.is_upstream_status_filter, "string"
    ),
    "url": ArgumentType(
        "a URL that is no script", harmless.is_harmless_url, "string", harmless.mend_url
    ),
    "resource": ArgumentType(
        f"a resource name of at most {MAX_NAME} characters, without markup",
        luigi_types.is_resource,
        "string",
        harmless.escape_tags,
    ),
    "resources": ArgumentType(
        "an object of resource names and numbers",
        luigi_types.is_resources,
        mend=harmless.mend_resources,
    ),
    "params": ArgumentType(
        "an object of parameter names and JSON values",
        luigi_types.is_params,
        mend=harmless.spell_numbers,
    ),
    "search": ArgumentType("an object of names and plain values", luigi_types.is_search),
    "visibilities": ArgumentType(
        "an object of parameter names and 0, 1 or 2", luigi_types.is_visibilities
    ),
    "retry-policy": ArgumentType(
        "an object of retry_count, disable_hard_timeout and disable_window",
        luigi_types.is_retry_policy,
    ),
    "any-number": ArgumentType("a number", luigi_types.is_any_number),
    "worker-info": ArgumentType(
        "an object, or pairs, of JSON values under names that are not the scheduler's own",
        luigi_types.is_worker_info,
        mend=harmless.spell_numbers,
    ),
    "no-markup": ArgumentType("free of markup", harmless.has_no_markup, mend=harmless.mend_message),
}
"""Every type that a catalog may name."""

TEXT_TYPES = frozenset(
    name
    for name, argument_type in TYPES.items()
    if argument_type.policy_type == "string" or argument_type.accepts("x")
)
"""Types of which a value can be a text."""
