"""Whether a call could be allowed with some arguments: for lists of methods and for buttons.

Evaluates a policy in three values: true, false, or unknown as soon as it depends on an argument.
The answer is no only when a forbid holds for certain or no permit can hold. A decision is never
taken from it. A policy that fails to evaluate denies the call anyway, so an error may count as
either value here.

Cedar's own partial evaluation is not used: its interface is not stable, and it cannot evaluate with
`context.agent` as the only known part of the context.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cedarpy import pst

from proxy.policy.context_reads import applies
from proxy.policy.schema import Action


@dataclass(frozen=True, slots=True)
class PartialCall:
    """The known part of a call before it is made.

    `principal` and `resource` are entity ids; `roles` are those of the principal.
    """

    principal: str
    roles: Sequence[str]
    agent: bool
    resource: str
    name: str
    action: Action


def may_be_allowed(policies: Sequence[pst.Template], known: PartialCall) -> bool:
    """Return whether the call could be allowed with some arguments."""
    permitted = False
    for policy in policies:
        if not applies(policy, known.name, known.action):
            continue
        holds = _all(
            [
                _scope(policy.principal, known),
                _scope(policy.resource, known),
                *(_clause(c, known) for c in policy.clauses),
            ]
        )
        if policy.effect == "forbid" and holds is True:
            return False
        permitted |= policy.effect == "permit" and holds is not False
    return permitted


def _all(values: Sequence[bool | None]) -> bool | None:
    return False if False in values else (None if None in values else True)


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _clause(clause: pst.Clause, known: PartialCall) -> bool | None:
    value = _evaluate(clause.expr, known)
    return value if isinstance(clause, pst.When) else _not(value)


def _scope(scope: pst.PrincipalOrResourceConstraint, known: PartialCall) -> bool | None:
    match scope:
        case pst.ScopeAny():
            return True
        case pst.ScopeEq(pst.EntityUid() as entity):
            return _is_entity(entity, known)
        case pst.ScopeIn(pst.EntityUid() as entity):
            return _is_entity(entity, known) or _is_role(entity, known)
        case _:
            return None


def _is_entity(entity: pst.EntityUid, known: PartialCall) -> bool:
    return (str(entity.type), entity.id) in (
        ("User", known.principal),
        ("Scheduler", known.resource),
        ("Action", known.name),
    )


def _is_role(entity: pst.EntityUid, known: PartialCall) -> bool:
    return str(entity.type) == "Role" and entity.id in known.roles


def _evaluate(node: pst.Expr, known: PartialCall) -> bool | None:
    match node:
        case pst.BoolLit(value):
            return value
        case pst.GetAttr(pst.Var("context"), "agent"):
            return known.agent
        case pst.UnaryOp("not", arg):
            return _not(_evaluate(arg, known))
        case pst.BinaryOp("and", left, right):
            return _all([_evaluate(left, known), _evaluate(right, known)])
        case pst.BinaryOp("or", left, right):
            return _not(_all([_not(_evaluate(left, known)), _not(_evaluate(right, known))]))
        case pst.IfThenElse(condition, then, other):
            chosen = _evaluate(condition, known)
            first, second = _evaluate(then, known), _evaluate(other, known)
            return (
                first
                if chosen is True or first == second
                else (second if chosen is False else None)
            )
        case pst.BinaryOp("in", pst.Var("action"), pst.EntityLit(entity)):
            return str(entity.type) == "Action" and entity.id in (
                known.name,
                known.action.permission,
            )
        case pst.BinaryOp("in", pst.Var("principal"), pst.EntityLit(entity)):
            return (str(entity.type), entity.id) == ("User", known.principal) or _is_role(
                entity, known
            )
        case pst.BinaryOp("in", pst.Var() as variable, pst.Set(members)):
            return _not(
                _all(
                    [
                        _not(_evaluate(pst.BinaryOp("in", variable, member), known))
                        for member in members
                    ]
                )
            )
        case pst.BinaryOp("eq", pst.Var("action"), pst.EntityLit(entity)):
            return (str(entity.type), entity.id) == ("Action", known.name)
        case pst.HasAttr(pst.GetAttr(pst.Var("context"), "args"), (name,)) if (
            name not in known.action.args
        ):
            return False
        case _:
            return None
