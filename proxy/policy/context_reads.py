"""What the policies look at in a call: the part of the context that a remembered decision has to be
keyed by.

A decision depends on the principal, the upstream, the method, and on what the policies that can
apply to the method see of the context. `reads_of` walks their syntax trees and collects that as looks:
is an argument there, does it match a pattern, does it equal a text, or simply its value. Two calls
whose looks come out the same (`observe`) are the same to every policy. Where the walk meets a use
of the context that it does not know, the whole context is looked at: slower, never coarser.

`context.agent` is no look: it comes from the principal, which is part of the key anyway.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

from cedarpy import pst

from proxy.policy.schema import Action

TASK_KEY = "context.task"
"""Stands for ``context.task`` where others are argument names, which hold no point."""


@dataclass(frozen=True, slots=True)
class ContextRead:
    """One thing that policies see of a call: at an argument (or `TASK_KEY`), in one of four ways.

    `pattern` is the operand of ``like``, None in it standing for the wildcard; `text` that of
    ``==``.
    """

    at: str
    how: Literal["value", "given", "like", "equals"]
    pattern: tuple[str | None, ...] = ()
    text: str = ""


class _Untraceable(Exception):  # noqa: N818  (it unwinds the walk)
    """A use of the context that the walk cannot follow."""


def applies(policy: pst.Template, name: str, action: Action) -> bool:
    """Whether the policy's scope can cover the method, whoever calls it on whatever upstream."""
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
    """Collect what the policies look at in calls of one method, each thing once, in a fixed order."""
    try:
        found = {
            look
            for policy in policies
            if applies(policy, name, action)
            for look in _walk(policy.clauses)
        }
    except _Untraceable:
        found = {ContextRead(at, "value") for at in (TASK_KEY, *action.args)}
    # An argument that the method does not have is never in its context, so a look at it always
    # comes out the same.
    found = {look for look in found if look.at == TASK_KEY or look.at in action.args}
    whole = {look.at for look in found if look.how == "value"}
    finer = {look.at for look in found if look.how in ("like", "equals")}
    kept = (
        look
        for look in found
        if look.how == "value"
        or (look.at not in whole and (look.how != "given" or look.at not in finer))
    )
    return tuple(sorted(kept, key=lambda look: (look.at, look.how, repr(look.pattern), look.text)))


def attribute_paths(node: object) -> Iterator[tuple[str, ...]]:
    """Give every attribute that a policy names, by its path from the variable: ``("context",
    "args", "family")``.

    Cedar takes ``x has y`` for false when there is no `y`, and with it a scope whose argument is
    mistyped.
    """
    match node:
        case pst.GetAttr() if (path := _from_variable(node)) is not None:
            yield path
        case pst.HasAttr(base, attrs) if (path := _from_variable(base)) is not None:
            yield path + attrs
    yield from (path for part in _parts(node) for path in attribute_paths(part))


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
            if full != ("args",):  # always there, like context.agent
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
