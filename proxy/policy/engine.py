"""The decision: may this principal make this call.

Order: an unknown method is denied, then a principal without a role, then Cedar decides; a forbid
beats every permit, and without a permit the call is denied. A policy that fails to evaluate denies
the call (Cedar alone would skip it, and with it perhaps the one forbid that matters). So does any
failure of the engine itself.

A call that acts on other tasks beside its own (`Call.others`) is decided as if it were about each
of them, too: the first denial is the decision. So a policy on ``context.task`` bounds every task
that a call reaches.

Cedar costs 50 to 130 µs a decision, so decisions are remembered: by the principal's whole entity,
the upstream, the method, and exactly what the policies look at in the call (`reads`, `observe`).
`decide_uncached` is the same without memory and without that analysis; a test holds the two against
each other.

Names reach Cedar as JSON values only, never as Cedar syntax, so no subject or argument can be read
as policy.
"""

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cedarpy
from cedarpy import pst

from proxy.catalog.loading import Catalog
from proxy.model import Call, Decision, Principal, Reason, Value
from proxy.policy.context_reads import TASK_KEY, reads_of
from proxy.policy.decision_key import CallKey, NotCacheable, compile_key, task_projection, value_of
from proxy.policy.reachability import PartialCall, may_be_allowed
from proxy.policy.roles import Roles
from proxy.policy.schema import PERMISSIONS, Action, actions_of, cedar_schema

MAX_DECISIONS = 20_000
"""Remembered decisions; the older half is dropped when they are this many. About 250 bytes each."""
MAX_PRINCIPALS = 512
"""Principals whose entities are kept parsed, about 20 kB each; the older half is dropped when they
are this many.
"""
MAX_DISTINCT_TASKS = 1_000
"""Tasks of one call that the policies tell apart, each a decision; a call with more is denied. A
pattern tells two apart.
"""

_POLICY_NUMBER = re.compile(r"`(policy\d+)`")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy as loaded: its ``@id``, its text, where it stands, and its syntax tree."""

    id: str
    text: str
    file: str
    line: int
    tree: pst.Template


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """What is fixed for one method of one upstream.

    `reads` are the places in the context that policies look at; `task_view` is what they see of a
    task, None if nothing.
    """

    name: str
    action: Action
    reads: tuple[str, ...]
    key: CallKey | None
    task_view: Callable[[str], Hashable] | None


@dataclass(slots=True)
class CachedPrincipal:
    """One principal as Cedar sees it, and its number in the memory."""

    principal: Principal
    number: int
    entities: cedarpy.Entities


class PolicySet:
    """A validated set of policies, with the roles that belong to it. Made by `proxy.policy.load`;
    not for several threads.
    """

    def __init__(self, policies: Sequence[Policy], catalogs: Mapping[str, Catalog], roles: Roles, policy_hash: str,
                 *, files: Mapping[str, str] | None = None) -> None:  # fmt: skip
        """Take policies that `load` has validated against the catalogs; `catalogs` has one for each
        upstream.

        `files` are the texts the set was read from, by file name, for whoever keeps every set that
        was in force.
        """
        self.hash = policy_hash
        self.files = dict(files or {})
        self.roles = roles
        self.policies = {policy.id: policy for policy in policies}
        self._ids = {f"policy{number}": policy.id for number, policy in enumerate(policies)}
        self._trees = tuple(policy.tree for policy in policies)
        text = "\n".join(policy.text for policy in policies)
        self._handle = cedarpy.PolicySet.from_str(text)
        actions = actions_of(list(catalogs.values()))
        self._schema = cedarpy.Schema.from_str(cedar_schema(actions))
        self._base = cedarpy.Entities.from_json_str(
            json.dumps([*_action_entities(actions), *_upstream_entities(catalogs)])
        )
        plans = {name: self._plan(name, action) for name, action in actions.items()}
        self._plans = {
            upstream: {name: plans[name] for name in catalog.methods}
            for upstream, catalog in catalogs.items()
        }
        self._callers: dict[tuple[Hashable, ...], CachedPrincipal] = {}
        self._by_identity: dict[int, CachedPrincipal] = {}
        self._numbers = 0
        self._memory: dict[tuple[Hashable, ...], Decision] = {}
        self._unknown_method = self._denied(Reason.UNKNOWN_METHOD)
        self._no_role = self._denied(Reason.NO_ROLE)
        self._error = self._denied(Reason.POLICY_ERROR)

    @property
    def texts(self) -> Mapping[str, tuple[str, str]]:
        """Give the text of each policy and the file it stands in, by ``@id``."""
        return {
            policy.id: (policy.text, f"{policy.file}:{policy.line}")
            for policy in self.policies.values()
        }

    def decide(self, principal: Principal, call: Call) -> Decision:
        """Decide a call whose arguments are checked. Never raises: what fails, denies.

        Measured: 0.5 to 1.5 µs remembered, 50 to 70 µs not.
        """
        upstream = self._plans.get(call.upstream)
        plan = None if upstream is None else upstream.get(call.method)
        if plan is None or not call.in_catalog:
            return self._unknown_method
        if not principal.roles:
            return self._no_role
        decision = self._decide_one(principal, call, call.task, plan)
        if call.related_tasks and decision.allowed and plan.task_view is not None:
            return self._decide_others(principal, call, plan, plan.task_view, decision)
        return decision

    def _decide_one(
        self, principal: Principal, call: Call, task: str | None, plan: ActionPlan
    ) -> Decision:
        """Decide a call as if it were about `task` alone."""
        try:
            # The verifier gives the same object for the same token, so its address finds the entry
            # without hashing it whole.
            caller = self._by_identity.get(id(principal))
            if caller is None or caller.principal is not principal:
                caller = self._caller(principal)
            if plan.key is None:
                key: tuple[Hashable, ...] = (caller.number, call.upstream, call.method)
            else:
                key = (caller.number, call.upstream, call.method, plan.key(call, task))
            found = self._memory.get(key)
            if found is not None:
                return found
            decision = self._evaluate(caller, call, task, plan)
            self._remember(key, decision)
            return decision
        except NotCacheable:
            return self._evaluate_safely(principal, call, task, plan)
        except Exception:
            return self._error

    def _decide_others(
        self,
        principal: Principal,
        call: Call,
        plan: ActionPlan,
        view_of: Callable[[str], Hashable],
        decision: Decision,
    ) -> Decision:
        """Decide an allowed call on the other tasks it names: one for all that the policies cannot
        tell apart.
        """
        seen = set() if call.task is None else {view_of(call.task)}
        # most often they are all of the kind of the call's own
        if seen.issuperset(map(view_of, call.related_tasks)):
            return decision
        for task in call.related_tasks:
            view = view_of(task)
            if view not in seen:
                if len(seen) >= MAX_DISTINCT_TASKS:
                    return self._error
                seen.add(view)
                other = self._decide_one(principal, call, task, plan)
                if not other.allowed:
                    return other
        return decision

    def decide_introspection(self, principal: Principal) -> Decision:
        """Decide a question about the catalog itself (``system.listMethods``): open to whoever has
        a role, since the answer is filtered.
        """
        return (
            Decision("allow", Reason.ALLOWED, (), self.hash) if principal.roles else self._no_role
        )

    def deny(self, reason: Reason) -> Decision:
        """Deny for a reason that is no policy's, such as a gate that is shutting down."""
        return self._denied(reason)

    def may_call(self, principal: Principal, upstream: str, method: str) -> bool:
        """Whether some arguments could make this an allowed call; for lists only, `decide` has the
        say.
        """
        plan = self._plans.get(upstream, {}).get(method)
        if plan is None or not principal.roles:
            return False
        return may_be_allowed(
            self._trees,
            PartialCall(
                principal.name, principal.roles, principal.agent, upstream, method, plan.action
            ),
        )

    def decide_uncached(self, principal: Principal, calls: Sequence[Call]) -> list[Decision]:
        """Decide as `decide` does, with the whole context, the schema, nothing remembered. Slow and
        obvious, for tests and replays.
        """
        entities = self._base.with_added_json_str(_user_entities(principal))
        decisions = []
        requests = []
        counts = []
        for call in calls:
            plan = self._plans.get(call.upstream, {}).get(call.method)
            if plan is None or not call.in_catalog:
                decisions.append(self._unknown_method)
            elif not principal.roles:
                decisions.append(self._no_role)
            else:
                decisions.append(self._error)  # until Cedar says otherwise
                tasks = (call.task, *call.related_tasks)
                requests += [
                    _request(principal, call, task, plan.action, (TASK_KEY, *plan.action.args))
                    for task in tasks
                ]
                counts.append((len(decisions) - 1, len(tasks)))
        results = iter(cedarpy.is_authorized_batch(requests, self._handle, entities, self._schema))
        for index, count in counts:
            each = [self._decision(next(results)) for _ in range(count)]
            decisions[index] = next(
                (decision for decision in each if not decision.allowed), each[0]
            )
        return decisions

    def _plan(self, name: str, action: Action) -> ActionPlan:
        seen = reads_of(self._trees, name, action)
        return ActionPlan(
            name,
            action,
            tuple(dict.fromkeys(look.at for look in seen)),
            compile_key(seen, action),
            task_projection(seen, action),
        )

    def _caller(self, principal: Principal) -> CachedPrincipal:
        key = (
            principal.issuer,
            principal.issuer_name,
            principal.subject,
            principal.roles,
            principal.groups,
            principal.agent,
        )
        caller = self._callers.get(key)
        if caller is None:
            if len(self._callers) >= MAX_PRINCIPALS:
                _drop_half(self._callers)
                self._by_identity.clear()
            self._numbers += 1
            caller = CachedPrincipal(
                principal, self._numbers, self._base.with_added_json_str(_user_entities(principal))
            )
            self._callers[key] = caller
        elif caller.principal is not principal:  # another token of the same principal
            caller = CachedPrincipal(principal, caller.number, caller.entities)
        if len(self._by_identity) >= 8 * MAX_PRINCIPALS:
            self._by_identity.clear()
        self._by_identity[id(principal)] = caller
        return caller

    def _remember(self, key: tuple[Hashable, ...], decision: Decision) -> None:
        if len(self._memory) >= MAX_DECISIONS:
            _drop_half(self._memory)
        self._memory[key] = decision

    def _evaluate_safely(
        self, principal: Principal, call: Call, task: str | None, plan: ActionPlan
    ) -> Decision:
        try:
            return self._evaluate(self._caller(principal), call, task, plan)
        except Exception:
            return self._error

    def _evaluate(
        self, caller: CachedPrincipal, call: Call, task: str | None, plan: ActionPlan
    ) -> Decision:
        request = _request(caller.principal, call, task, plan.action, plan.reads)
        return self._decision(cedarpy.is_authorized(request, self._handle, caller.entities))

    def _decision(self, result: cedarpy.AuthzResult) -> Decision:
        diagnostics = result.diagnostics
        if diagnostics.errors:
            numbers = [
                number for error in diagnostics.errors for number in _POLICY_NUMBER.findall(error)
            ]
            return Decision("deny", Reason.POLICY_ERROR, self._names(numbers), self.hash)
        names = self._names(diagnostics.reasons)
        if result.allowed:
            return Decision("allow", Reason.ALLOWED, names, self.hash)
        return Decision(
            "deny", Reason.POLICY_FORBIDS if names else Reason.NO_POLICY_ALLOWS, names, self.hash
        )

    def _names(self, numbers: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted({self._ids[number] for number in numbers}))

    def _denied(self, reason: Reason) -> Decision:
        return Decision("deny", reason, (), self.hash)


def _drop_half(memory: dict[Any, Any]) -> None:
    """Drop the entries that came first. Dropping all would make every caller pay at once."""
    for key in list(islice(memory, len(memory) // 2)):
        del memory[key]


def _request(
    principal: Principal, call: Call, task: str | None, action: Action, reads: Sequence[str]
) -> dict[str, Any]:
    args: dict[str, Value] = {}
    context: dict[str, Any] = {"agent": principal.agent, "args": args}
    for at in reads:
        value = value_of(call, task, at, action.args.get(at, "string"))
        if value is not None:
            if at == TASK_KEY:
                context["task"] = value
            else:
                args[at] = value
    return {
        "principal": {"type": "User", "id": principal.name},
        "action": {"type": "Action", "id": call.method},
        "resource": {"type": "Scheduler", "id": call.upstream},
        "context": context,
    }


def _entity(
    kind: str, name: str, attributes: Mapping[str, object], parents: Sequence[tuple[str, str]]
) -> dict[str, object]:
    above = [{"type": parent, "id": parent_name} for parent, parent_name in parents]
    return {"uid": {"type": kind, "id": name}, "attrs": dict(attributes), "parents": above}


def _action_entities(actions: Mapping[str, Action]) -> list[dict[str, object]]:
    classes = [_entity("Action", name, {}, []) for name in PERMISSIONS]
    return classes + [
        _entity("Action", name, {}, [("Action", action.permission)])
        for name, action in actions.items()
    ]


def _upstream_entities(catalogs: Mapping[str, Catalog]) -> list[dict[str, object]]:
    return [
        _entity("Scheduler", name, {"protocol": catalog.protocol}, [])
        for name, catalog in catalogs.items()
    ]


def _user_entities(principal: Principal) -> str:
    attributes = {
        "issuer": principal.issuer,
        "subject": principal.subject,
        "groups": list(principal.groups),
    }
    user = _entity("User", principal.name, attributes, [("Role", role) for role in principal.roles])
    return json.dumps([*(_entity("Role", role, {}, []) for role in principal.roles), user])
