"""The work of decisions: limited when a set loads, and for each call."""

import pytest

from proxy.catalog.model import Argument, Catalog, Method
from proxy.common.cedar_statements import split_statements
from proxy.errors import ConfigError
from proxy.model import Call, Principal, Reason, Value
from proxy.policy import work
from proxy.policy.engine import Policy, PolicySet
from proxy.policy.load import parse_statement
from proxy.policy.roles import parse_roles
from proxy.policy.schema import Action
from proxy.policy.work import (
    MAX_PARTS,
    MAX_PATTERN,
    MAX_POLICIES,
    MAX_SEARCHED,
    MAX_STEP_NS,
    MAX_TEXT,
    cost_of,
    excess,
)
from tests.policy.conftest import ROLES, Load

CATALOG = Catalog(
    "any",
    "xmlrpc",
    {
        "run": Method("run", "work", (Argument("sql", "string"), Argument("names", "string-list"))),
        "stop": Method("stop", "admin", (Argument("name", "string"),)),
    },
)
ACTIONS = {name: Action(method) for name, method in CATALOG.methods.items()}
WORKER = Principal("https://idp", "idp", "sub", ("worker",))
RUN = 'permit (principal, action == Action::"run", resource) when'


def policies(*texts: str) -> list[Policy]:
    """Parse policies; each stands on a line of one file."""
    text = "\n".join(f'@id("p{number}") {text}' for number, text in enumerate(texts, 1))
    return [parse_statement("all.cedar", each) for each in split_statements(text)]


def like(pattern: str) -> str:
    """Return a policy with one pattern."""
    return f'{RUN} {{ context.args has sql && context.args.sql like "{pattern}" }};'


def policy_set(*texts: str) -> PolicySet:
    """Make a set for one upstream."""
    return PolicySet(policies(*texts), {"any": CATALOG}, parse_roles(ROLES, None), "sha256:0")


def run(**args: Value) -> Call:
    """Make a call of the method."""
    return Call("any", "xmlrpc", "run", "work", args)


def test_a_set_within_the_limits_has_no_excess() -> None:
    """Up to each limit."""
    assert not excess(policies(like("*" + "a" * (MAX_PATTERN - 1))), ACTIONS)
    assert not excess(policies(*[like("team*")] * MAX_POLICIES), ACTIONS)
    searched = [like("*" + "a" * 249)] * (MAX_SEARCHED // 250)
    assert not excess(policies(*searched), ACTIONS)


@pytest.mark.parametrize(
    ("texts", "line", "message"),
    [
        (
            [like("*" + "a" * MAX_PATTERN)],
            1,
            f"a pattern has 257 characters, more than {MAX_PATTERN}",
        ),
        (
            [f'{RUN} {{ context.args has sql && context.args.sql == "{"a" * 4097}" }};'],
            1,
            f"a text has 4097 characters, more than {MAX_TEXT}",
        ),
        (
            [like("team*")] * (MAX_POLICIES + 5),
            1001,
            f"with it, the policies for run are more than {MAX_POLICIES}",
        ),
        (
            [like("*" + "a" * 249)] * 6,
            6,
            f"with it, the characters that patterns search for run are more than {MAX_SEARCHED}",
        ),
        (
            [RUN + ' { ["' + '","'.join(map(str, range(13_000))) + '"].contains("x") };'] * 2,
            2,
            f"with it, the parts of conditions for run are more than {MAX_PARTS}",
        ),
    ],
)
def test_each_limit_is_named_with_the_policy_that_exceeds_it(
    texts: list[str], line: int, message: str
) -> None:
    """The file, the line and the limit; one problem, and a hint."""
    [problem] = excess(policies(*texts), ACTIONS)
    assert (problem.location, problem.message) == (f"all.cedar:{line}", f"p{line}: {message}")
    assert problem.hint.endswith(".")


def test_a_limit_that_many_methods_exceed_is_one_problem() -> None:
    """A policy for all methods names some of them."""
    text = "permit (principal, action, resource);"
    actions = {f"m{number}": Action(Method(f"m{number}", "work")) for number in range(9)}
    [problem] = excess(policies(*[text] * (MAX_POLICIES + 1)), actions)
    assert "for m0, m1, m2 and 6 more are more than" in problem.message


def test_a_set_beyond_a_limit_does_not_load(load: Load) -> None:
    """It is refused as every other problem of a set is."""
    with pytest.raises(ConfigError) as caught:
        load(
            '@id("p") permit (principal, action == Action::"add_task", resource)'
            f' when {{ context has task && context.task like "*{"a" * 300}" }};'
        )
    [problem] = caught.value.problems
    assert problem.location == "all.cedar:1"
    assert "a pattern has 301 characters" in problem.message


def test_a_pattern_on_what_is_not_known_counts_for_every_argument() -> None:
    """A condition may choose between two arguments."""
    text = (
        f"{RUN} {{ context.args has sql && (if context.agent then context.args.sql "
        'else principal.subject) like "*abc" };'
    )
    trees = [policy.tree for policy in policies(text)]
    cost = cost_of(trees, "run", ACTIONS["run"], ["sql"])
    assert cost.character_ns == {"sql": 2 * 4}


def test_the_texts_that_always_may_be_read_are_within_a_step() -> None:
    """Even under the slowest set that loads, whatever they hold."""
    slowest = [like("*" + "a" * 249)] * (MAX_SEARCHED // 250)
    trees = [policy.tree for policy in policies(*slowest)]
    cost = cost_of(trees, "run", ACTIONS["run"], ["sql"])
    assert cost.of_evaluation("\U0001f600" * 4_096) < MAX_STEP_NS
    assert not cost.of_long({"sql": "\U0001f600" * 4_096}, None)


def test_long_texts_are_decided_under_short_patterns_as_cedar_decides() -> None:
    """300 kB under ``*secret*prod*`` took 15 seconds once."""
    decider = policy_set(like("*secret*prod*"))
    for text in ("secret" * 50_000, "secret" * 50_000 + "prod"):
        [slow] = decider.decide_uncached(WORKER, [run(sql=text)])
        assert decider.decide(WORKER, run(sql=text)) == slow


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "args",
    [
        {"sql": "a" * 1_000_000},
        {"sql": "\U0001f600" * 100_000},
        {"sql": '"' * 400_000},
    ],
    ids=["long", "wide", "escaped"],
)
def test_a_call_beyond_a_step_is_not_evaluated(
    args: dict[str, Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is denied as too complex, and decided where there is more time."""
    decider = policy_set(like("*secret*prod*"))
    evaluated: list[object] = []
    evaluate = decider._evaluate

    def count(*parts: object) -> object:
        evaluated.append(parts)
        return evaluate(*parts)  # type: ignore[arg-type]  # as it is called

    monkeypatch.setattr(decider, "_evaluate", count)
    denied = decider.decide(WORKER, run(**args))
    assert (denied.effect, denied.reason) == ("deny", Reason.CALL_TOO_COMPLEX)
    assert not evaluated
    decider.max_ns = 100 * MAX_STEP_NS
    assert decider.decide(WORKER, run(**args)).reason is Reason.NO_POLICY_ALLOWS
    assert len(evaluated) == 1


def test_a_long_list_that_policies_read_is_beyond_a_step() -> None:
    """Cedar takes a microsecond for each item."""
    decider = policy_set(f'{RUN} {{ context.args has names && context.args.names.contains("x") }};')
    assert decider.decide(WORKER, run(names=["x"] * 1_000)).allowed
    assert decider.decide(WORKER, run(names=["x"] * 20_000)).reason is Reason.CALL_TOO_COMPLEX
    assert decider.decide(WORKER, run(names=[])).reason is Reason.NO_POLICY_ALLOWS


def test_what_policies_do_not_read_may_be_of_any_size() -> None:
    """It costs nothing."""
    decider = policy_set(like("*secret*prod*"))
    args: dict[str, Value] = {"sql": "secret prod", "names": ["x" * 100] * 100_000}
    assert decider.decide(WORKER, run(**args)).allowed


@pytest.mark.parametrize("count", [5, 2_000])
def test_tasks_beyond_a_step_are_not_decided_on_there(count: int) -> None:
    """Neither their patterns nor their evaluations hold the loop; elsewhere there is more time."""
    method = Method("run", "work", (Argument("task", "string"),))
    texts = [
        'permit (principal, action == Action::"run", resource) when { context has task && ('
        + " || ".join(f'context.task like "*{n:04}*"' for n in range(begin, begin + 80))
        + ") };"
        for begin in (0, 80, 160)
    ]
    decider = PolicySet(
        policies(*texts),
        {"any": Catalog("any", "luigi", {"run": method})},
        parse_roles(ROLES, None),
        "",
    )
    others = tuple(f"task {number:04} " + "x" * 200 for number in range(1, count))
    call = Call("any", "luigi", "run", "work", {}, task="task 0000", related_tasks=others)
    reason = decider.decide(WORKER, call).reason
    assert reason is (Reason.ALLOWED if count == 5 else Reason.CALL_TOO_COMPLEX)
    decider.max_ns = 1_000 * MAX_STEP_NS
    assert decider.decide(WORKER, call).reason is not Reason.CALL_TOO_COMPLEX


def test_evaluations_of_many_kinds_of_task_are_counted() -> None:
    """Few characters, and a policy that tells each task apart."""
    method = Method("run", "work", (Argument("name", "string"),))
    text = (
        'permit (principal, action == Action::"run", resource) when '
        "{ context has task && context.args has name && context.task != context.args.name };"
    )
    decider = PolicySet(
        policies(text),
        {"any": Catalog("any", "luigi", {"run": method})},
        parse_roles(ROLES, None),
        "",
    )
    others = tuple(map(str, range(900)))
    call = Call("any", "luigi", "run", "work", {"name": "n"}, task="t", related_tasks=others)
    assert decider.decide(WORKER, call).reason is Reason.CALL_TOO_COMPLEX
    decider.max_ns = 1_000 * MAX_STEP_NS
    assert decider.decide(WORKER, call).allowed


def test_the_limits_of_totals_have_their_hints() -> None:
    """Each says what to do."""
    assert all(hint.endswith(".") for _, _, hint in work._LIMITS)
