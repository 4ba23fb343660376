"""The decision: may this principal make this call.

Order: a method that the catalog lacks is denied, then a principal without a role, then Cedar
decides. A forbid beats every permit, and a call without a permit is denied. A policy that fails to
evaluate denies the call: Cedar alone would skip it, and it may be the one forbid that matters. So
does any failure of the engine itself.

A call that acts on other tasks than its own (`Call.related_tasks`) is decided as if it were about
each of them, too. The first denial is the decision. So a policy on ``context.task`` bounds every
task that a call reaches.

A decision that would take longer than a step of the event loop may is not made there
(`proxy.policy.work`): it is denied as too complex, unless `PolicySet.max_ns` is raised, as it is in
a process of its own.

Decisions are cached by the principal's complete entity, the upstream, the method, and exactly what
the policies read of the call (`context_reads`, `decision_key`). `decide_uncached` decides without
cache and without that analysis; a test compares the two.
"""

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import cedarpy
from cedarpy import pst

from proxy.catalog.model import Catalog
from proxy.common.bounded_cache import BoundedCache
from proxy.model import Call, Decision, Principal, Reason
from proxy.policy.context_reads import TASK_KEY, applies, reads_of
from proxy.policy.decision_key import CallKey, NotCacheable, compile_key, task_projection
from proxy.policy.entities import action_entities, request_of, upstream_entities, user_entities
from proxy.policy.reachability import PartialCall, may_be_allowed
from proxy.policy.roles import Roles
from proxy.policy.schema import Action, actions_of, cedar_schema
from proxy.policy.work import MAX_STEP_NS, DecisionCost, cost_of

# Cached decisions, of about 250 bytes each.
MAX_DECISIONS = 20_000

# Principals whose entities are cached in Cedar's form, of about 20 kB each.
MAX_PRINCIPALS = 512

# Tasks of one call that policies tell apart, each of them a decision. A call with more is denied. A
# pattern in a policy tells two kinds of task apart; an equality with an argument each task.
MAX_DISTINCT_TASKS = 1_000

_POLICY_NUMBER = re.compile(r"`(policy\d+)`")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy as loaded: its ``@id``, its text, its place in a file, and its syntax tree."""

    id: str
    text: str
    file: str
    line: int
    tree: pst.Template


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """The part of a decision that is fixed for one method.

    `reads` name the arguments that policies read. `key` makes the key of a call, and `project_task`
    what policies read of a task; both are None when policies read nothing there. `cost` is what a
    decision takes. `trees` are the policies that can apply to the method.
    """

    name: str
    action: Action
    reads: tuple[str, ...]
    key: CallKey | None
    project_task: Callable[[str], Hashable] | None
    cost: DecisionCost
    trees: tuple[pst.Template, ...]


@dataclass(slots=True)
class CachedPrincipal:
    """One principal in Cedar's form, and its number in the keys of decisions."""

    principal: Principal
    number: int
    entities: cedarpy.Entities


class PolicySet:
    """A validated set of policies with its roles, for one thread; made by `proxy.policy.load`."""

    def __init__(
        self,
        policies: Sequence[Policy],
        catalogs: Mapping[str, Catalog],
        roles: Roles,
        policy_hash: str,
        *,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Take policies that `load` has validated against `catalogs`, one for each upstream.

        `files` are the texts of the set by file name, for the audit's policy snapshots.
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
            json.dumps([*action_entities(actions), *upstream_entities(catalogs)])
        )
        plans = {name: self._plan(name, action) for name, action in actions.items()}
        self._plans = {
            upstream: {name: plans[name] for name in catalog.methods}
            for upstream, catalog in catalogs.items()
        }
        # PERF: the caches save 50 to 70 us of 160 (add_task, 900 B)
        self._principals: BoundedCache[tuple[Hashable, ...], CachedPrincipal] = BoundedCache(
            MAX_PRINCIPALS
        )
        self._numbers = 0
        self._decisions: BoundedCache[tuple[Hashable, ...], Decision] = BoundedCache(MAX_DECISIONS)
        self._possible: BoundedCache[tuple[Hashable, ...], bool] = BoundedCache(MAX_DECISIONS)
        self._unknown_method = self._denied(Reason.UNKNOWN_METHOD)
        self._no_role = self._denied(Reason.NO_ROLE)
        self._error = self._denied(Reason.POLICY_ERROR)
        self._too_complex = self._denied(Reason.CALL_TOO_COMPLEX)
        self.max_ns = MAX_STEP_NS

    @property
    def texts(self) -> Mapping[str, tuple[str, str]]:
        """The text of each policy and its place in a file, by ``@id``."""
        return {
            policy.id: (policy.text, f"{policy.file}:{policy.line}")
            for policy in self.policies.values()
        }

    def decide(self, principal: Principal, call: Call) -> Decision:
        """Decide a call whose arguments are checked. Never raises: a failure denies the call."""
        upstream = self._plans.get(call.upstream)
        plan = None if upstream is None else upstream.get(call.method)
        if plan is None or not call.in_catalog:
            return self._unknown_method
        if not principal.roles:
            return self._no_role
        decision = self._decide_one(principal, call, call.task, plan)
        if call.related_tasks and decision.allowed and plan.project_task is not None:
            return self._decide_related(principal, call, plan, plan.project_task, decision)
        return decision

    def _decide_one(
        self, principal: Principal, call: Call, task: str | None, plan: ActionPlan
    ) -> Decision:
        """Decide a call as if it were about `task` alone."""
        try:
            cached = self._cached_principal(principal)
            if plan.reads and plan.cost.of_long(call.args, task) > self.max_ns:
                return self._too_complex
            if plan.key is None:
                key: tuple[Hashable, ...] = (cached.number, call.upstream, call.method)
            else:
                key = (cached.number, call.upstream, call.method, plan.key(call, task))
            found = self._decisions.get(key)
            if found is not None:
                return found
            decision = self._evaluate(cached, call, task, plan)
            self._decisions.put(key, decision)
            return decision
        except NotCacheable:
            return self._evaluate_safely(principal, call, task, plan)
        except Exception:
            return self._error

    def _decide_related(
        self,
        principal: Principal,
        call: Call,
        plan: ActionPlan,
        project: Callable[[str], Hashable],
        decision: Decision,
    ) -> Decision:
        """Decide an allowed call on the other tasks it names.

        Tasks of which policies read the same are decided once.
        """
        tasks = call.related_tasks
        spent = plan.cost.of_tasks(tasks)
        if spent > self.max_ns:
            return self._too_complex
        seen = set() if call.task is None else {project(call.task)}
        # PERF: most often all tasks are like the call's own; one pass of built-ins finds that
        if seen.issuperset(map(project, tasks)):
            return decision
        for task in tasks:
            read = project(task)
            if read not in seen:
                if len(seen) >= MAX_DISTINCT_TASKS:
                    return self._error
                spent += plan.cost.of_evaluation(task)
                if spent > self.max_ns:
                    return self._too_complex
                seen.add(read)
                other = self._decide_one(principal, call, task, plan)
                if not other.allowed:
                    return other
        return decision

    def decide_introspection(self, principal: Principal) -> Decision:
        """Decide a question about the catalog itself (``system.listMethods``).

        It is allowed for every principal with a role, since the answer is filtered.
        """
        return (
            Decision("allow", Reason.ALLOWED, (), self.hash) if principal.roles else self._no_role
        )

    def deny(self, reason: Reason) -> Decision:
        """Deny a call for another reason than a policy, such as a shutdown."""
        return self._denied(reason)

    def may_call(self, principal: Principal, upstream: str, method: str) -> bool:
        """Return whether the call could be allowed with some arguments: for lists of methods."""
        plan = self._plans.get(upstream, {}).get(method)
        if plan is None or not principal.roles:
            return False
        key = (principal.name, principal.roles, principal.agent, upstream, method)
        found = self._possible.get(key)
        if found is None:
            known = PartialCall(*key, plan.action)
            found = may_be_allowed(plan.trees, known)
            self._possible.put(key, found)
        return found

    def decide_uncached(self, principal: Principal, calls: Sequence[Call]) -> list[Decision]:
        """Decide as `decide` does, with the complete context and the schema, and without cache.

        Slow and obvious, for tests and replays.
        """
        entities = self._base.with_added_json_str(user_entities(principal))
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
                decisions.append(self._error)  # replaced below by what Cedar decides
                tasks = (call.task, *call.related_tasks)
                requests += [
                    request_of(principal, call, task, plan.action, (TASK_KEY, *plan.action.args))
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
        reads = reads_of(self._trees, name, action)
        names = tuple(dict.fromkeys(read.at for read in reads))
        return ActionPlan(
            name,
            action,
            names,
            compile_key(reads, action),
            task_projection(reads, action),
            cost_of(self._trees, name, action, names),
            tuple(tree for tree in self._trees if applies(tree, name, action)),
        )

    def _cached_principal(self, principal: Principal) -> CachedPrincipal:
        key = (
            principal.issuer,
            principal.issuer_name,
            principal.subject,
            principal.roles,
            principal.groups,
            principal.agent,
        )
        cached = self._principals.get(key)
        if cached is None:
            self._numbers += 1
            cached = CachedPrincipal(
                principal, self._numbers, self._base.with_added_json_str(user_entities(principal))
            )
            self._principals.put(key, cached)
        return cached

    def _evaluate_safely(
        self, principal: Principal, call: Call, task: str | None, plan: ActionPlan
    ) -> Decision:
        try:
            return self._evaluate(self._cached_principal(principal), call, task, plan)
        except Exception:
            return self._error

    def _evaluate(
        self, cached: CachedPrincipal, call: Call, task: str | None, plan: ActionPlan
    ) -> Decision:
        request = request_of(cached.principal, call, task, plan.action, plan.reads)
        return self._decision(cedarpy.is_authorized(request, self._handle, cached.entities))

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
