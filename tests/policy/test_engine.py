from collections.abc import Callable
from dataclasses import replace

import cedarpy
import pytest

from proxy.model import Call, Principal, Reason, Value
from proxy.policy import engine
from proxy.policy.engine import PolicySet

Load = Callable[[str], PolicySet]
Make = Callable[..., Call]

VIEW = '@id("view") permit (principal in Role::"viewer", action in Action::"view", resource);'
WORK = '@id("work") permit (principal in Role::"worker", action in Action::"work", resource);'
SCOPED = """
@id("scoped") permit (principal in Role::"worker", action in Action::"work", resource)
when { context has task && context.task like "etl.*" };
@id("alive") permit (principal in Role::"worker", action == Action::"ping", resource);
"""


def who(
    *roles: str, subject: str = "ann", agent: bool = False, groups: tuple[str, ...] = ()
) -> Principal:
    """Make a principal of the local issuer."""
    return Principal(
        "https://callgate.local/issuer", "local", subject, tuple(sorted(roles)), groups, agent, 2e9
    )


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Collect the requests that really reach Cedar."""
    requests: list[dict[str, object]] = []
    real = cedarpy.is_authorized

    def counted(
        request: dict[str, object], policies: cedarpy.PolicySet, entities: cedarpy.Entities
    ) -> cedarpy.AuthzResult:
        requests.append(request)
        return real(request, policies, entities)

    monkeypatch.setattr("proxy.policy.engine.cedarpy.is_authorized", counted)
    return requests


def test_a_permit_allows_and_is_named(load: Load, call: Make) -> None:
    """An allowed call names the policies that permit it and the hash of the set."""
    policies = load(VIEW)
    decision = policies.decide(who("viewer"), call("task_list"))
    assert (decision.allowed, decision.reason, decision.policies) == (
        True,
        Reason.ALLOWED,
        ("view",),
    )
    assert decision.policy_hash == policies.hash


def test_without_a_permit_the_call_is_denied(load: Load, call: Make) -> None:
    """A call that no policy matches is denied, with a reason of its own."""
    decision = load(VIEW).decide(who("viewer"), call("pause"))
    assert (decision.allowed, decision.reason, decision.policies) == (
        False,
        Reason.NO_POLICY_ALLOWS,
        (),
    )


def test_a_forbid_beats_a_permit_and_is_named(load: Load, call: Make) -> None:
    """One forbid beats every permit, and the decision names the forbid alone."""
    policies = load(
        VIEW + '@id("not-the-graph") forbid (principal, action == Action::"graph", resource);'
    )
    decision = policies.decide(who("viewer"), call("graph"))
    assert (decision.allowed, decision.reason, decision.policies) == (
        False,
        Reason.POLICY_FORBIDS,
        ("not-the-graph",),
    )
    assert policies.decide(who("viewer"), call("task_list")).allowed


def test_an_unknown_method_is_denied_under_any_policy(load: Load, call: Make) -> None:
    """A policy that permits everything permits no method that the catalog lacks, and no upstream
    that is not configured.
    """
    policies = load('@id("all") permit (principal, action, resource);')
    assert policies.decide(who("admin"), call("eval")).reason is Reason.UNKNOWN_METHOD
    assert (
        policies.decide(who("admin"), replace(call("pause"), in_catalog=False)).reason
        is Reason.UNKNOWN_METHOD
    )
    assert (
        policies.decide(who("admin"), replace(call("pause"), upstream="other")).reason
        is Reason.UNKNOWN_METHOD
    )
    assert (
        policies.decide(who("admin"), replace(call("pause"), upstream="processes")).reason
        is Reason.UNKNOWN_METHOD
    )
    assert policies.decide(who(), call("eval")).reason is Reason.UNKNOWN_METHOD


def test_an_identity_without_a_role_is_denied_everything(load: Load, call: Make) -> None:
    """A policy that permits every principal permits none without a role."""
    assert (
        load('@id("all") permit (principal, action, resource);')
        .decide(who(), call("is_paused"))
        .reason
        is Reason.NO_ROLE
    )


def test_a_policy_that_fails_denies(load: Load, call: Make) -> None:
    """An error in any policy denies the call and names the policy, although another one permits
    (Cedar would skip it).
    """
    policies = load(
        '@id("all") permit (principal, action, resource);'
        '@id("sum") forbid (principal, action == Action::"set_worker_processes", resource)'
        " when { context.args has n && context.args.n * 4611686018427387904 > 5 };"
    )
    decision = policies.decide(who("admin"), call("set_worker_processes", {"worker": "w", "n": 9}))
    assert (decision.allowed, decision.reason, decision.policies) == (
        False,
        Reason.POLICY_ERROR,
        ("sum",),
    )
    assert policies.decide(
        who("admin"), call("set_worker_processes", {"worker": "w", "n": 0})
    ).allowed


def test_introspection_is_open_to_every_role(load: Load) -> None:
    """The answer is filtered, so any role may ask; an identity without a role may not."""
    policies = load(VIEW)
    assert policies.decide_introspection(who("viewer")).allowed
    assert policies.decide_introspection(who()).reason is Reason.NO_ROLE


def test_a_denial_for_another_reason_names_the_set(load: Load) -> None:
    """A shutdown denies calls too, and the record names the policies in force."""
    policies = load(VIEW)
    denied = policies.deny(Reason.DRAINING)
    assert (denied.effect, denied.reason, denied.policies) == ("deny", Reason.DRAINING, ())
    assert denied.policy_hash == policies.hash


def test_a_failing_engine_denies(load: Load, call: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any failure of the engine is a denial, and it is not cached."""
    policies = load(
        VIEW + '@id("same") forbid (principal, action, resource)'
        " when { context has task && context.task == principal.subject };"
    )

    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr("proxy.policy.engine.cedarpy.is_authorized", broken)
        assert policies.decide(who("viewer"), call("task_list")).reason is Reason.POLICY_ERROR
        too_long_to_cache = call("graph", task="x" * 1000)
        assert policies.decide(who("viewer"), too_long_to_cache).reason is Reason.POLICY_ERROR
    assert policies.decide(who("viewer"), call("task_list")).allowed


@pytest.mark.parametrize(
    "task",
    [
        "etl.x\ud800",
        *(pytest.param(odd, marks=pytest.mark.interpreted) for odd in (7, b"etl.x", ["etl.x"])),
    ],
)
def test_a_value_that_cedar_cannot_read_denies(load: Load, call: Make, task: object) -> None:
    """A task that is no valid text cannot be judged, so the call is denied."""
    policies = load(
        VIEW
        + WORK
        + '@id("none") forbid (principal, action, resource) when { context has task && context.task == "etl.y" };'
    )
    assert not policies.decide(who("worker"), replace(call("add_task"), task=task)).allowed  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    "subject",
    ['ann" || true', "ann\\", 'User::"root"', "a\nb", "a\x00b", "é😀", "|", "local|ann", "*"],
)
def test_odd_subjects_are_only_themselves(load: Load, call: Make, subject: str) -> None:
    """A subject with any characters is never read as policy or as another subject."""
    policies = load(
        '@id("ann") permit (principal == User::"local|ann", action, resource) when { principal.subject == "ann" };'
    )
    assert policies.decide(who("viewer"), call("task_list")).allowed
    assert (
        policies.decide(who("viewer", subject=subject), call("task_list")).reason
        is Reason.NO_POLICY_ALLOWS
    )


def test_an_agent_is_seen_by_policies(load: Load, call: Make) -> None:
    """A person and the software that acts for it are different principals to the policies and to
    the cache.
    """
    policies = load(
        VIEW + '@id("no-agents") forbid (principal, action, resource) when { context.agent };'
    )
    assert policies.decide(who("viewer"), call("task_list")).allowed
    assert (
        policies.decide(who("viewer", agent=True), call("task_list")).reason
        is Reason.POLICY_FORBIDS
    )
    assert policies.decide(who("viewer"), call("task_list")).allowed


def test_a_set_that_reads_nothing_is_decided_once(
    load: Load, call: Make, evaluations: list[object]
) -> None:
    """Where no policy reads the arguments, one evaluation serves every call of the method, and none
    of another.
    """
    policies = load(VIEW + WORK)
    for number in range(50):
        assert policies.decide(
            who("worker"), call("add_task", {"task_id": f"t_{number}"}, task=f"t_{number}")
        ).allowed
    assert len(evaluations) == 1
    policies.decide(who("worker"), call("ping"))
    assert len(evaluations) == 2


def test_a_pattern_is_cached_by_its_result(
    load: Load, call: Make, evaluations: list[object]
) -> None:
    """A thousand tasks are two cases to a policy with one prefix, and each gets its own decision."""
    policies = load(SCOPED)
    for number in range(200):
        assert policies.decide(who("worker"), call("add_task", task=f"etl.Load_{number}")).allowed
        assert not policies.decide(
            who("worker"), call("add_task", task=f"prod.Load_{number}")
        ).allowed
    assert policies.decide(who("worker"), call("ping")).allowed
    assert len(evaluations) == 3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"limit": True}, {"limit": False}),
        ({"max_shown_tasks": 1}, {"max_shown_tasks": 0}),
        ({"max_shown_tasks": 0}, {}),
        ({"search": ""}, {}),
        ({"search": "x"}, {"search": "y"}),
    ],
)
def test_calls_that_a_policy_tells_apart_are_not_mixed_up(
    load: Load, call: Make, first: dict[str, Value], second: dict[str, Value]
) -> None:
    """Absent, empty, false and zero are different to a policy, so they have different keys."""
    policies = load(
        '@id("a") permit (principal, action == Action::"task_list", resource) when { context.args has limit && context.args.limit };'
        '@id("b") permit (principal, action == Action::"task_list", resource)'
        " when { context.args has max_shown_tasks && context.args.max_shown_tasks < 1 };"
        '@id("c") permit (principal, action == Action::"task_list", resource)'
        ' when { context.args has search && (context.args.search == "" || context.args.search == "y") };'
    )
    calls = [call("task_list", first), call("task_list", second)]
    slowly = policies.decide_uncached(who("viewer"), calls)
    assert [policies.decide(who("viewer"), c) for c in calls * 2] == slowly * 2
    assert slowly[0] != slowly[1]


def test_principals_are_not_mixed_up(load: Load, call: Make) -> None:
    """Each part of the identity is part of the key: issuer, subject, roles, groups, agent."""
    policies = load(
        '@id("one") permit (principal == User::"local|ann", action, resource) when { principal.groups.contains("g") };'
    )
    ann = who("viewer", groups=("g",))
    assert policies.decide(ann, call("task_list")).allowed
    others = [
        replace(ann, issuer_name="other"),
        replace(ann, subject="bob"),
        replace(ann, groups=()),
    ]
    for other in others:
        assert not policies.decide(other, call("task_list")).allowed
    assert policies.decide(replace(ann, expires=0.0), call("task_list")).allowed


def test_a_new_token_of_a_principal_finds_the_cached_decisions(
    load: Load, call: Make, evaluations: list[object]
) -> None:
    """Rotated tokens give new objects of the same principal; nothing is evaluated again for them."""
    policies = load(VIEW)
    for number in range(20):
        assert policies.decide(
            replace(who("viewer"), expires=float(number)), call("task_list")
        ).allowed
    assert len(evaluations) == 1


def test_only_reads_of_policies_reach_cedar(
    load: Load, call: Make, evaluations: list[dict[str, object]]
) -> None:
    """The other arguments cannot matter and may be megabytes, so they are not copied."""
    policies = load(SCOPED)
    policies.decide(
        who("worker"),
        call(
            "add_task", {"task_id": "etl.a", "expl": "x" * 100_000, "family": "etl"}, task="etl.a"
        ),
    )
    assert evaluations[0]["context"] == {"agent": False, "task": "etl.a", "args": {}}


def test_long_values_are_decided_and_not_cached(
    load: Load, call: Make, evaluations: list[object]
) -> None:
    """A call with a value that is too long for a key is evaluated each time, correctly."""
    policies = load(
        '@id("same") permit (principal, action == Action::"task_list", resource)'
        " when { context.args has search && context has task && context.task == context.args.search };"
    )
    text = "x" * 300
    for _ in range(3):
        assert policies.decide(
            who("viewer"), call("task_list", {"search": text}, task=text)
        ).allowed
        assert not policies.decide(
            who("viewer"), call("task_list", {"search": text}, task=text + "y")
        ).allowed
    assert len(evaluations) == 6


def test_the_caches_are_bounded(load: Load, call: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many values and many principals do not grow the caches beyond their bounds, and decisions
    stay right.
    """
    monkeypatch.setattr(engine, "MAX_DECISIONS", 100)
    monkeypatch.setattr(engine, "MAX_PRINCIPALS", 10)
    policies = load(
        VIEW + '@id("x") forbid (principal, action == Action::"dep_graph", resource)'
        ' when { context.args has task_id && ["t_7"].contains(context.args.task_id) };'
    )
    for number in range(300):
        allowed = policies.decide(
            who("viewer", subject=f"s{number % 30}"),
            call("dep_graph", {"task_id": f"t_{number % 150}"}),
        ).allowed
        assert allowed == (number % 150 != 7)
        assert len(policies._decisions) <= 100
        assert len(policies._principals) <= 10


def test_a_passing_principal_does_not_inherit_a_decision(load: Load, call: Make) -> None:
    """Principal objects that come and go at the same address have their own decisions."""
    policies = load(
        '@id("even") permit (principal, action, resource) when { principal.subject like "*0" };'
    )

    def short_lived(number: int) -> Principal:
        return who("viewer", subject=str(number))

    for number in range(200):
        assert policies.decide(short_lived(number), call("task_list")).allowed == (number % 10 == 0)


def test_the_uncached_decision_has_the_same_reasons(shipped: PolicySet, call: Make) -> None:
    """Unknown methods and missing roles are decided alike without the cache."""
    calls = [call("eval"), call("task_list"), call("pause")]
    for principal in (who(), who("viewer"), who("admin")):
        assert shipped.decide_uncached(principal, calls) == [
            shipped.decide(principal, c) for c in calls
        ]


def test_a_scope_bounds_every_task_that_a_call_reaches(load: Load, call: Make) -> None:
    """A dependency is made known and gets the priority of the call, so each is decided on as the
    task itself would be.
    """
    policies = load(SCOPED)
    for others, allowed in [
        ((), True),
        (("etl.b", "etl.c"), True),
        (("prod.b",), False),
        (("etl.b", "prod.b", "etl.c"), False),
    ]:
        asked = call("add_task", task="etl.a", others=others)
        decision = policies.decide(who("worker"), asked)
        assert decision.allowed is allowed
        assert policies.decide_uncached(who("worker"), [asked]) == [decision]
    assert (
        policies.decide(who("worker"), call("add_task", task="prod.a", others=("etl.a",))).reason
        is Reason.NO_POLICY_ALLOWS
    )
    assert not policies.decide(who("worker"), call("add_task", others=("prod.b",))).allowed


def test_the_first_other_task_that_is_denied_gives_the_decision(load: Load, call: Make) -> None:
    """The refusal names the policy that forbids it, in the order of the call."""
    policies = load(
        WORK
        + '@id("x") forbid (principal, action, resource) when { context has task && context.task like "x.*" };'
        + '@id("y") forbid (principal, action, resource) when { context has task && context.task == "y" };'
    )
    for others, by in [(("a", "x.1", "y"), "x"), (("a", "y", "x.1"), "y")]:
        asked = call("add_task", task="a", others=others)
        decision = policies.decide(who("worker"), asked)
        assert (decision.reason, decision.policies) == (Reason.POLICY_FORBIDS, (by,))
        assert policies.decide_uncached(who("worker"), [asked]) == [decision]


@pytest.mark.parametrize(
    "policies",
    [WORK, SCOPED, WORK + '@id("d") forbid (principal, action, resource) when { context.agent };'],
)
def test_thousands_of_other_tasks_cost_few_evaluations(
    load: Load, call: Make, evaluations: list[object], policies: str
) -> None:
    """Tasks that no policy tells apart are decided once, in calls of any size."""
    others = tuple(f"etl.{number}" for number in range(20_000))
    loaded = load(policies)
    assert loaded.decide(
        who("worker"), call("add_task", {"deps": list(others)}, task="etl.a", others=others)
    ).allowed
    assert len(evaluations) == 1
    assert loaded.decide(
        who("worker"),
        call("add_task", {"deps": list(others)}, task="etl.a", others=(*others, "prod.1")),
    ).allowed == (policies is not SCOPED)
    assert len(evaluations) <= 2


def test_other_tasks_of_which_each_is_a_decision_are_bounded(
    load: Load, call: Make, evaluations: list[object]
) -> None:
    """Where a policy reads the complete name, every task is an evaluation. Beyond a thousand the
    call is denied, and no part of it is allowed.
    """
    policies = load(
        WORK
        + '@id("z") forbid (principal, action, resource) when { context has task && ["z"].contains(context.task) };'
    )
    policies.max_ns *= 1_000  # there is time: in a process of its own
    others = tuple(f"t{number}" for number in range(engine.MAX_DISTINCT_TASKS))
    assert policies.decide(who("worker"), call("add_task", task="a", others=others[:-1])).allowed
    assert len(evaluations) == engine.MAX_DISTINCT_TASKS
    assert (
        policies.decide(who("worker"), call("add_task", task="a", others=others)).reason
        is Reason.POLICY_ERROR
    )
    assert len(evaluations) == engine.MAX_DISTINCT_TASKS
    assert policies.decide(
        who("worker"), call("add_task", task="a", others=("t1", "z"))
    ).policies == ("z",)


def test_texts_are_found_by_id(load: Load) -> None:
    """The text and place of each policy are found by the id that decisions name."""
    text, place = load(VIEW).texts["view"]
    assert text == VIEW
    assert place == "all.cedar:1"
