"""The reads of one method (`context_reads`), compiled into the function that keys its decisions.

Each argument that is read, and the task, gives one part of the key. All reads of one argument are
compiled together into a projection of its value. Two values share a projection if and only if every
policy reads the same from them; a property test checks that. The functions run on every call that a
scoped policy can apply to, so they are made of built-ins where possible.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import methodcaller
from typing import Any, Final, TypeAlias

from proxy.catalog.types import PolicyType
from proxy.model import Call, Value
from proxy.policy.context_reads import TASK_KEY, ContextRead
from proxy.policy.schema import Action
from proxy.policy.wildcards import longest_prefix, matcher, prefix_of

# Characters of a text in a key. A call with a longer one is evaluated each time. So the number of
# entries bounds the memory of the cache.
MAX_TEXT = 256

# Members of a set in a key, for the same reason.
MAX_ITEMS = 16

_PYTHON: Final[Mapping[PolicyType, type]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "strings": list,
}

CallKey: TypeAlias = Callable[[Call, str | None], Hashable]
"""From a call and the task that is decided on to what the policies read of them."""

Projection: TypeAlias = Callable[[Any], Hashable]
"""From a value of the right type to what the policies read of it; never None."""


class NotCacheable(Exception):  # noqa: N818  (no error: the call is decided without the cache)
    """A value is too long for the key of a decision."""


def value_of(call: Call, task: str | None, at: str, policy_type: PolicyType) -> Value:
    """Return what the context has at `at`, None when it is absent.

    `task` is the task that is decided on: the call's own, or another one that it names.

    Raises:
        TypeError: the value is not of its type in the schema.

    """
    value = task if at == TASK_KEY else call.args.get(at)
    if value is None or type(value) is _PYTHON[policy_type]:
        return value
    raise TypeError(f"{at} is not {policy_type}")


def compile_key(reads: Sequence[ContextRead], action: Action) -> CallKey | None:
    """Compile the reads of a method into a function from a call to a key; None without reads.

    The function raises `NotCacheable` when a value is too long, and `TypeError` as `value_of` does.
    """
    projections = [
        (at, _PYTHON[action.args.get(at, "string")], compile_projection(reads, at, action))
        for at in dict.fromkeys(read.at for read in reads)
    ]
    if not projections:
        return None

    def key(call: Call, task: str | None) -> Hashable:
        args = call.args
        parts: list[Hashable] = []
        for at, kind, project in projections:
            value = task if at == TASK_KEY else args.get(at)
            if value is None:
                parts.append(None)
            elif type(value) is kind:
                parts.append(project(value))
            else:
                raise TypeError(at)
        return tuple(parts)

    return key


def task_projection(
    reads: Sequence[ContextRead], action: Action
) -> Callable[[str], Hashable] | None:
    """Compile the reads of the task into a function from a task to what they read of it.

    None when policies do not read the task.
    """
    task_reads = [read for read in reads if read.at == TASK_KEY]
    if not task_reads:
        return None
    if any(read.kind == "value" for read in task_reads):
        return str
    return compile_projection(task_reads, TASK_KEY, action)


def compile_projection(reads: Sequence[ContextRead], at: str, action: Action) -> Projection:
    """Compile the reads of `at`, which are one or more."""
    here = [read for read in reads if read.at == at]
    policy_type: PolicyType = action.args.get(at, "string")
    if all(read.kind == "given" for read in here):
        return lambda value: True
    if policy_type == "strings":
        return _short_set
    if policy_type != "string":
        return _itself
    if any(read.kind == "value" for read in here):
        return _short_text
    prefixes = [
        text
        for read in here
        if read.kind == "like" and (text := prefix_of(read.pattern)) is not None
    ]
    texts = [read.text for read in here if read.kind == "equals"]
    parts: list[Projection] = [
        matcher(read.pattern)
        for read in here
        if read.kind == "like" and prefix_of(read.pattern) is None
    ]
    if prefixes:
        parts.append(
            methodcaller("startswith", prefixes[0])
            if len(prefixes) == 1
            else longest_prefix(prefixes)
        )
    if texts:
        parts.append(texts[0].__eq__ if len(texts) == 1 else _which_of(texts))
    if len(parts) == 1:
        return parts[0]
    return lambda value: tuple([project(value) for project in parts])


def _which_of(texts: Sequence[str]) -> Projection:
    """Compile the question which of several texts a text equals; 0 for none."""
    numbers = {text: number for number, text in enumerate(texts, 1)}
    return lambda value: numbers.get(value, 0)


def _itself(value: bool | int) -> Hashable:
    return value


def _short_text(value: str) -> Hashable:
    if len(value) > MAX_TEXT:
        raise NotCacheable
    return value


def _short_set(value: list[Value]) -> Hashable:
    if len(value) > MAX_ITEMS:
        raise NotCacheable
    return tuple([_short_text(str(item)) for item in value])
