"""What the policies look at in a call: the part of the context that a remembered decision has to be keyed by.

A decision depends on the principal, the upstream, the method, and on what the policies that can apply to the method see of
the context. `looks` walks their syntax trees and collects that as looks: is an argument there, does it match a pattern, does
it equal a text, or simply its value. Two calls whose looks come out the same are the same to every policy. Where the walk
meets a use of the context that it does not know, the whole context is looked at: slower, never coarser.

`context.agent` is no look: it comes from the principal, which is part of the key anyway.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, TypeAlias

from cedarpy import pst

from proxy.model import Call, Value
from proxy.policy.schema import Action, Plain

TASK = "context.task"
"""Stands for ``context.task`` where others are argument names, which hold no point."""
MAX_TEXT = 256
"""Characters of a text in a key. What is longer is evaluated afresh, so that memory is bounded by the number of entries."""
MAX_ITEMS = 16
"""Members of a set in a key, likewise."""

_PYTHON: Mapping[Plain, type] = {"string": str, "boolean": bool, "integer": int, "strings": list}


class TooLong(Exception):  # noqa: N818  (no error: the decision is taken, and not remembered)
    """A value is too long to remember a decision by."""


@dataclass(frozen=True, slots=True)
class Look:
    """One thing that policies see of a call: at an argument (or `TASK`), in one of four ways.

    `pattern` is the operand of ``like``, None in it standing for the wildcard; `text` that of ``==``.
    """

    at: str
    how: Literal["value", "given", "like", "equals"]
    pattern: tuple[str | None, ...] = ()
    text: str = ""


class _Everything(Exception):  # noqa: N818  (it unwinds the walk)
    """A use of the context that the walk cannot follow."""


Key: TypeAlias = Callable[[Call, str | None], tuple[Hashable, ...]]
"""From a call, and the task that it is taken to be about, to what the policies see."""


def applies(policy: pst.Template, name: str, action: Action) -> bool:
    """Whether the policy's scope can cover the method, whoever calls it on whatever upstream."""
    match policy.action:
        case pst.ActionEq(entity):
            return entity.id == name
        case pst.ActionIn(entities):
            return any(entity.id in (name, action.permission) for entity in entities)
        case _:
            return True


def looks(policies: Sequence[pst.Template], name: str, action: Action) -> tuple[Look, ...]:
    """Collect what the policies look at in calls of one method, each thing once, in a fixed order."""
    try:
        found = {look for policy in policies if applies(policy, name, action) for look in _walk(policy.clauses)}
    except _Everything:
        found = {Look(at, "value") for at in (TASK, *action.args)}
    # An argument that the method does not have is never in its context, so a look at it always comes out the same.
    found = {look for look in found if look.at == TASK or look.at in action.args}
    whole = {look.at for look in found if look.how == "value"}
    finer = {look.at for look in found if look.how in ("like", "equals")}
    kept = (look for look in found if look.how == "value" or (look.at not in whole and (look.how != "given" or look.at not in finer)))
    return tuple(sorted(kept, key=lambda look: (look.at, look.how, repr(look.pattern), look.text)))


def named(node: object) -> Iterator[tuple[str, ...]]:
    """Give every attribute that a policy names, by its path from the variable: ``("context", "args", "family")``.

    Cedar takes ``x has y`` for false when there is no `y`, and with it a scope whose argument is mistyped.
    """
    match node:
        case pst.GetAttr() if (path := _from_variable(node)) is not None:
            yield path
        case pst.HasAttr(base, attrs) if (path := _from_variable(base)) is not None:
            yield path + attrs
    yield from (path for part in _parts(node) for path in named(part))


def _from_variable(node: object) -> tuple[str, ...] | None:
    match node:
        case pst.Var(name):
            return (name,)
        case pst.GetAttr(base, attr):
            below = _from_variable(base)
            return None if below is None else (*below, attr)
        case _:
            return None


def _path(node: object) -> tuple[str, ...] | None:
    path = _from_variable(node)
    return path[1:] if path is not None and path[0] == "context" else None


def _parts(node: object) -> Iterator[object]:
    """Give what a node of the syntax tree is made of; nothing for a name or a number."""
    if isinstance(node, Mapping):
        yield from node.values()
    elif isinstance(node, tuple):
        yield from node
    elif is_dataclass(node) and not isinstance(node, type):
        yield from (getattr(node, part.name) for part in fields(node))


def _at(path: tuple[str, ...]) -> str | None:
    """Name what a path of attributes leads to; None for ``context.agent``."""
    match path:
        case ("task",):
            return TASK
        case ("args", name):
            return name
        case ("agent",):
            return None
        case _:
            raise _Everything


def _walk(node: object) -> Iterator[Look]:
    path = _path(node)
    if path is not None:
        at = _at(path)
        if at is not None:
            yield Look(at, "value")
        return
    match node:
        case pst.HasAttr(base, attrs) if (below := _path(base)) is not None:
            full = below + attrs
            if full != ("args",):  # always there, like context.agent
                at = _at(full)
                if at is not None:
                    yield Look(at, "given")
        case pst.Like(base, pattern) if (below := _path(base)) is not None:
            at = _at(below)
            if at is not None:
                yield Look(at, "like", pattern=tuple(p.value if isinstance(p, pst.Char) else None for p in pattern))
        case pst.BinaryOp("eq" | "not_eq", left, pst.StringLit(text)) if (below := _path(left)) is not None:
            yield from _equals(below, text)
        case pst.BinaryOp("eq" | "not_eq", pst.StringLit(text), right) if (below := _path(right)) is not None:
            yield from _equals(below, text)
        case _:
            for part in _parts(node):
                yield from _walk(part)


def _equals(path: tuple[str, ...], text: str) -> Iterator[Look]:
    at = _at(path)
    if at is not None:
        yield Look(at, "equals", text=text)


def matcher(pattern: tuple[str | None, ...]) -> Callable[[str], bool]:
    """Compile a ``like`` pattern: None stands for any run of characters, everything else for itself."""
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


def value_of(call: Call, task: str | None, at: str, plain: Plain) -> Value:
    """Give what the context has at `at`, None when it is not there. Raises `TypeError` when it is not of its plain type.

    `task` is the task that is decided on, the call's own or another one that it names.
    """
    value = task if at == TASK else call.args.get(at)
    if value is None or type(value) is _PYTHON[plain]:
        return value
    raise TypeError(f"{at} is not {plain}")


def key_of(seen: Sequence[Look], action: Action) -> Key | None:
    """Compile the looks of a method into a function from a call to what they see; None when there are none.

    The function raises `TooLong` when a value is not worth remembering, and `TypeError` as `value_of` does.
    """
    if not seen:
        return None
    parts = tuple((look.at, action.args.get(look.at, "string"), _observer(look, action)) for look in seen)

    def key(call: Call, task: str | None) -> tuple[Hashable, ...]:
        return tuple([None if (value := value_of(call, task, at, plain)) is None else observe(value) for at, plain, observe in parts])

    return key


def task_view_of(seen: Sequence[Look], action: Action) -> Callable[[str], Hashable] | None:
    """Compile the looks at the task into a function from a task to what they see of it; None when there are none."""
    looks_at_task = [look for look in seen if look.at == TASK]
    if not looks_at_task:
        return None
    if any(look.how == "value" for look in looks_at_task):
        return str
    parts = [_observer(look, action) for look in looks_at_task]
    return lambda task: tuple([observe(task) for observe in parts])


def _observer(look: Look, action: Action) -> Callable[[Value], Hashable]:
    plain: Plain = action.args.get(look.at, "string")
    if look.how == "given":
        return lambda value: True
    if plain == "string" and look.how == "like":
        matches = matcher(look.pattern)
        return lambda value: matches(str(value))
    if plain == "string" and look.how == "equals":
        return lambda value: value == look.text
    if plain == "string":
        return _short_text
    return _short_set if plain == "strings" else _itself


def _itself(value: Value) -> Hashable:
    return value if isinstance(value, (bool, int)) else None


def _short_text(value: Value) -> Hashable:
    text = str(value)
    if len(text) > MAX_TEXT:
        raise TooLong
    return text


def _short_set(value: Value) -> Hashable:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise TooLong
    return tuple([_short_text(item) for item in value])
