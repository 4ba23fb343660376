"""What the policies see in one call: their looks (`reads`) compiled into functions that give the
key of a remembered decision.

Each place that is looked at (an argument, or the task) gives one part of the key, and all looks at
that place are taken together. Exactly as fine as the looks one by one, which a test holds: two
values give the same part if and only if every look at them comes out the same. On the path of every
call that a scoped policy can apply to, so most of it is built-ins.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import methodcaller
from typing import Any, Final, TypeAlias

from proxy.catalog.types import PolicyType
from proxy.model import Call, Value
from proxy.policy.context_reads import TASK_KEY, ContextRead
from proxy.policy.schema import Action

MAX_TEXT = 256
"""Characters of a text in a key. What is longer is evaluated afresh, so that memory is bounded by
the number of entries.
"""
MAX_ITEMS = 16
"""Members of a set in a key, likewise."""

_PYTHON: Final[Mapping[PolicyType, type]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "strings": list,
}

CallKey: TypeAlias = Callable[[Call, str | None], Hashable]
"""From a call, and the task that it is taken to be about, to what the policies see."""

Projection: TypeAlias = Callable[[Any], Hashable]
"""From a value that is there, and of its plain type, to what the policies see of it: never None."""


class NotCacheable(Exception):  # noqa: N818  (no error: the decision is taken, and not remembered)
    """A value is too long to remember a decision by."""


def value_of(call: Call, task: str | None, at: str, plain: PolicyType) -> Value:
    """Give what the context has at `at`, None when it is not there. Raises `TypeError` when it is
    not of its plain type.

    `task` is the task that is decided on, the call's own or another one that it names.
    """
    value = task if at == TASK_KEY else call.args.get(at)
    if value is None or type(value) is _PYTHON[plain]:
        return value
    raise TypeError(f"{at} is not {plain}")


def compile_key(seen: Sequence[ContextRead], action: Action) -> CallKey | None:
    """Compile the looks of a method into a function from a call to what they see; None when there
    are none.

    The function raises `NotCacheable` when a value is not worth remembering, and `TypeError` as
    `value_of` does.
    """
    places = [
        (at, _PYTHON[action.args.get(at, "string")], compile_projection(seen, at, action))
        for at in dict.fromkeys(look.at for look in seen)
    ]
    if not places:
        return None

    def key(call: Call, task: str | None) -> Hashable:
        args = call.args
        parts: list[Hashable] = []
        for at, kind, observe in places:
            value = task if at == TASK_KEY else args.get(at)
            if value is None:
                parts.append(None)
            elif type(value) is kind:
                parts.append(observe(value))
            else:
                raise TypeError(at)
        return tuple(parts)

    return key


def task_projection(
    seen: Sequence[ContextRead], action: Action
) -> Callable[[str], Hashable] | None:
    """Compile the looks at the task into a function from a task to what they see of it; None when
    there are none.
    """
    looks_at_task = [look for look in seen if look.at == TASK_KEY]
    if not looks_at_task:
        return None
    if any(look.how == "value" for look in looks_at_task):
        return str
    return compile_projection(looks_at_task, TASK_KEY, action)


def compile_projection(seen: Sequence[ContextRead], at: str, action: Action) -> Projection:
    """Compile the looks at one place, of which there is one at the least."""
    looks = [look for look in seen if look.at == at]
    plain: PolicyType = action.args.get(at, "string")
    if all(look.how == "given" for look in looks):
        return lambda value: True
    if plain == "strings":
        return _short_set
    if plain != "string":
        return _itself
    if any(look.how == "value" for look in looks):
        return _short_text
    prefixes = [
        text for look in looks if look.how == "like" and (text := _prefix(look.pattern)) is not None
    ]
    texts = [look.text for look in looks if look.how == "equals"]
    parts: list[Projection] = [
        matcher(look.pattern)
        for look in looks
        if look.how == "like" and _prefix(look.pattern) is None
    ]
    if prefixes:
        parts.append(
            methodcaller("startswith", prefixes[0]) if len(prefixes) == 1 else _longest_of(prefixes)
        )
    if texts:
        parts.append(texts[0].__eq__ if len(texts) == 1 else _which_of(texts))
    if len(parts) == 1:
        return parts[0]
    return lambda value: tuple([observe(value) for observe in parts])


def matcher(pattern: tuple[str | None, ...]) -> Callable[[str], bool]:
    """Compile a ``like`` pattern: None stands for any run of characters, everything else for
    itself.
    """
    stars = pattern.count(None)
    text = "".join(part for part in pattern if part is not None)
    if stars == 0:
        return text.__eq__
    if stars == 1 and pattern[-1] is None:
        return lambda value: value.startswith(text)
    if stars == 1 and pattern[0] is None:
        return lambda value: value.endswith(text)
    expression = "".join(".*" if part is None else re.escape(part) for part in pattern)
    # A run of wildcards is one; else a pattern such as "***x" would make the matching slow.
    found = re.compile(re.sub(r"(?:\.\*)+", ".*", expression), re.DOTALL).fullmatch
    return lambda value: found(value) is not None


def _prefix(pattern: tuple[str | None, ...]) -> str | None:
    """Give the text of a pattern that asks for a beginning alone."""
    if pattern.count(None) == 1 and pattern[-1] is None:
        return "".join(part for part in pattern if part is not None)
    return None


def _longest_of(prefixes: Sequence[str]) -> Projection:
    """Which of several prefixes a text has, told by the longest of them: the others it has are
    those which that one has.
    """
    groups = "|".join(
        f"({re.escape(prefix)})" for prefix in sorted(prefixes, key=len, reverse=True)
    )
    found = re.compile(groups).match

    def longest(value: str) -> Hashable:
        match = found(value)
        return 0 if match is None else match.lastindex

    return longest


def _which_of(texts: Sequence[str]) -> Projection:
    """Which of several texts a text is; 0 for none."""
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
