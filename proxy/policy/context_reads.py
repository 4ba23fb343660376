"""What policies read of a call's context: the part that the key of a cached decision must have.

A decision depends on the principal, the upstream, the method, and on what the policies that can
apply to the method read of the context. `reads_of` walks their syntax trees and collects these
reads: an argument's presence, a match of a pattern, an equality with a text, or the value itself.
Two calls with the same result for every read are the same to every policy (`decision_key`). Where
the walk meets a use of the context that it cannot trace, every argument counts as read: fewer calls
share a decision then, and never two that a policy tells apart.

`context.agent` is not a read: it comes from the principal, which is part of the key anyway.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

from cedarpy import pst

from proxy.policy.schema import Action

# ``context.task`` among names of arguments, which hold no dot.
TASK_KEY = "context.task"


@dataclass(frozen=True, slots=True)
class ContextRead:
    """One read of a call by policies: of an argument (or `TASK_KEY`), of one of four kinds.

    `pattern` is the operand of ``like``, with None for each wildcard; `text` that of ``==``.
    """

    at: str
    kind: Literal["value", "given", "like", "equals"]
    pattern: tuple[str | None, ...] = ()
    text: str = ""


class _Untraceable(Exception):  # noqa: N818  (it unwinds the walk)
    """A use of the context that the walk cannot trace."""


def applies(policy: pst.Template, name: str, action: Action) -> bool:
    """Return whether the policy's scope can cover the method, for any principal and upstream."""
    match policy.action:
        case pst.ActionEq(entity):
            return entity.id == name
        case pst.ActionIn(entities):
            return any(entity.id in (name, action.permission) for entity in entities)
        case _:
            return True


def reads_of(
    policies: Sequence[pst.Template], name: str, action: Action
) -> tuple[ContextRead, ...]:
    """Return what the policies read of calls of one method, each once, in a fixed order."""
    try:
        found = {
            read
            for policy in policies
            if applies(policy, name, action)
            for read in _walk(policy.clauses)
        }
    except _Untraceable:
        found = {ContextRead(at, "value") for at in (TASK_KEY, *action.args)}
    # An argument that the method does not have is never in its context: a read of it has always
    # the same result.
    found = {read for read in found if read.at == TASK_KEY or read.at in action.args}
    by_value = {read.at for read in found if read.kind == "value"}
    by_text = {read.at for read in found if read.kind in ("like", "equals")}
    needed = (
        read
        for read in found
        if read.kind == "value"
        or (read.at not in by_value and (read.kind != "given" or read.at not in by_text))
    )
    return tuple(sorted(needed, key=lambda one: (one.at, one.kind, repr(one.pattern), one.text)))


def attribute_paths(node: object) -> Iterator[tuple[str, ...]]:
    """Yield every attribute path that a policy names: ``("context", "args", "family")``.

    Cedar evaluates ``x has y`` to false when the schema has no `y`, so it does not report a
    condition on a mistyped argument.
    """
    match node:
        case pst.GetAttr() if (path := attribute_path(node)) is not None:
            yield path
        case pst.HasAttr(base, attrs) if (path := attribute_path(base)) is not None:
            yield path + attrs
    yield from (path for part in _parts(node) for path in attribute_paths(part))


def attribute_path(node: object) -> tuple[str, ...] | None:
    """Return the path of an attribute, such as ``("context", "task")``; None for another node."""
    match node:
        case pst.Var(name):
            return (name,)
        case pst.GetAttr(base, attr):
            below = attribute_path(base)
            return None if below is None else (*below, attr)
        case _:
            return None


def _path(node: object) -> tuple[str, ...] | None:
    path = attribute_path(node)
    return path[1:] if path is not None and path[0] == "context" else None


def _parts(node: object) -> Iterator[object]:
    """Yield the children of a node of the syntax tree; none for a name or a number."""
    if isinstance(node, Mapping):
        yield from node.values()
    elif isinstance(node, tuple):
        yield from node
    elif is_dataclass(node) and not isinstance(node, type):
        yield from (getattr(node, part.name) for part in fields(node))


def _at(path: tuple[str, ...]) -> str | None:
    """Return the key of what an attribute path leads to; None for ``context.agent``."""
    match path:
        case ("task",):
            return TASK_KEY
        case ("args", name):
            return name
        case ("agent",):
            return None
        case _:
            raise _Untraceable


def _walk(node: object) -> Iterator[ContextRead]:
    path = _path(node)
    if path is not None:
        at = _at(path)
        if at is not None:
            yield ContextRead(at, "value")
        return
    match node:
        case pst.HasAttr(base, attrs) if (below := _path(base)) is not None:
            full = below + attrs
            if full != ("args",):  # always present, like context.agent
                at = _at(full)
                if at is not None:
                    yield ContextRead(at, "given")
        case pst.Like(base, pattern) if (below := _path(base)) is not None:
            at = _at(below)
            if at is not None:
                yield ContextRead(
                    at,
                    "like",
                    pattern=tuple(p.value if isinstance(p, pst.Char) else None for p in pattern),
                )
        case pst.BinaryOp("eq" | "not_eq", left, pst.StringLit(text)) if (
            below := _path(left)
        ) is not None:
            yield from _equals(below, text)
        case pst.BinaryOp("eq" | "not_eq", pst.StringLit(text), right) if (
            below := _path(right)
        ) is not None:
            yield from _equals(below, text)
        case _:
            for part in _parts(node):
                yield from _walk(part)


def _equals(path: tuple[str, ...], text: str) -> Iterator[ContextRead]:
    at = _at(path)
    if at is not None:
        yield ContextRead(at, "equals", text=text)
