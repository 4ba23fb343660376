"""The cached decisions against the uncached: generated policies over the shipped catalogs, and
generated calls.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.model import Catalog, Method
from proxy.model import Call, Principal, Reason, Value
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from tests.support.amount import examples

SETS = examples(40)
CALLS = 2_500
"""Together a hundred thousand calls under CI."""

ROLES = "".join(
    f'[[roles.{role}]]\nissuer = "local"\ngroup = "{role}"\n' for role in ("a", "b", "c")
)
TEXTS = [
    "",
    "etl",
    "etl.A",
    "etl.A_1",
    "etl.AB_2",
    "xetl.A_1x",
    "prod.A_1",
    "A",
    "a*b",
    'q"uote\\',
    "é😀",
    "x\ny",
    "x" * 300,
    "RUNNING",
]
PATTERNS = [
    "*",
    "",
    "etl.*",
    "etl.*",
    "*_1",
    "*1x",
    "*A_1",
    "etl.*_*",
    "*A*",
    "a\\*b",
    "etl",
    "*😀",
    "x*y",
]
NUMBERS = [0, 1, 2, -1, 3, 1 << 40]


class Policies:
    """A generator of policies that validate, over everything that a policy can see."""

    def __init__(self, dice: random.Random, catalogs: dict[str, Catalog]) -> None:
        """Take the dice, and the catalogs whose methods and arguments are named."""
        self.dice = dice
        self.methods = {
            name: method
            for catalog in catalogs.values()
            for name, method in catalog.methods.items()
        }

    def text(self, number: int) -> str:
        """Write one policy."""
        dice = self.dice
        names = dice.sample(sorted(self.methods), 3)
        classes = dice.sample(["view", "work", "trigger", "admin"], 2)
        action = dice.choice(
            [
                "action",
                f'action == Action::"{names[0]}"',
                f'action in Action::"{classes[0]}"',
                "action in ["
                + ", ".join(f'Action::"{name}"' for name in [*names, classes[1]])
                + "]",
            ]
        )
        principal = dice.choice(
            [
                "principal",
                'principal in Role::"a"',
                'principal in Role::"b"',
                'principal == User::"local|s1"',
            ]
        )
        resource = dice.choice(["resource", "resource", 'resource == Scheduler::"luigi"'])
        clauses = "".join(
            f" {dice.choice(('when', 'unless'))} {{ {self.condition(3)} }}"
            for _ in range(dice.randrange(3))
        )
        effect = dice.choice(["permit", "permit", "permit", "forbid"])
        return f'@id("p{number}") {effect} ({principal}, {action}, {resource}){clauses};\n'

    def condition(self, depth: int) -> str:
        """Write a condition, nested at most `depth` deep."""
        dice = self.dice
        if depth == 0 or dice.random() < 0.4:
            return dice.choice([self.task, self.argument, self.argument, self.surroundings])()
        one, other = self.condition(depth - 1), self.condition(depth - 1)
        return dice.choice(
            [
                f"({one} && {other})",
                f"({one} || {other})",
                f"!({one})",
                f"(if {one} then {other} else {self.condition(depth - 1)})",
            ]
        )

    def task(self) -> str:
        """Write a condition on the task."""
        dice = self.dice
        then = dice.choice(
            [
                "true",
                f'context.task like "{dice.choice(PATTERNS)}"',
                f"context.task == {self.quoted()}",
                f"{self.quoted()} != context.task",
                f"[{self.quoted()}, {self.quoted()}].contains(context.task)",
                "context.task == principal.subject",
            ]
        )
        return f"(context has task && {then})"

    def argument(self) -> str:
        """Write a condition on an argument that some method has."""
        dice = self.dice
        name, plain = dice.choice(
            sorted(
                {
                    (a.name, a.policy_type)
                    for m in self.methods.values()
                    for a in m.arguments
                    if a.policy_type
                }
            )
        )
        at = f"context.args.{name}"
        then = {
            "string": [
                f'{at} like "{dice.choice(PATTERNS)}"',
                f"{at} == {self.quoted()}",
                f"[{self.quoted()}].contains({at})",
            ],
            "boolean": [at, f"{at} == true", f"!{at}"],
            # The product overflows for the largest number: then the policy fails, and the call is
            # denied.
            "integer": [f"{at} > 1", f"{at} == {dice.choice(NUMBERS)}", f"{at} * {1 << 30} > 7"],
            "strings": [
                f"{at}.contains({self.quoted()})",
                f"{at}.isEmpty()",
                f"{at} == [{self.quoted()}, {self.quoted()}]",
            ],
        }[plain]
        return f"(context.args has {name} && {dice.choice(['true', *then, *then])})"

    def surroundings(self) -> str:
        """Write a condition on the principal, the action, the resource or the agent mark."""
        return self.dice.choice(
            [
                "context.agent",
                'principal in Role::"c"',
                'principal.groups.contains("g1")',
                'principal.subject like "s*"',
                'principal.issuer == "https://a"',
                'action in Action::"work"',
                f'action == Action::"{self.dice.choice(sorted(self.methods))}"',
                'resource.protocol == "luigi"',
                "(if context.agent then context else context) has task",
            ]
        )

    def quoted(self) -> str:
        """Write a text as Cedar reads it."""
        text = (
            self.dice.choice(TEXTS).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        )
        return f'"{text}"'


def value(dice: random.Random, plain: str | None) -> Value:
    """Make a value of a policy type, or one that no policy sees."""
    if plain == "string":
        return dice.choice(TEXTS)
    if plain == "boolean":
        return dice.random() < 0.5
    if plain == "integer":
        return dice.choice(NUMBERS)
    if plain == "strings":
        return [dice.choice(TEXTS) for _ in range(dice.choice([0, 1, 2, 2, 20]))]
    unseen: list[Value] = [1.5, {"a": 1}, float("inf"), [1]]
    return dice.choice(unseen)


def generated_call(dice: random.Random, upstream: str, catalog: Catalog, method: Method) -> Call:
    """Make a call in which each argument is there, null, or absent."""
    args: dict[str, Value] = {}
    for argument in method.arguments:
        if dice.random() < 0.6:
            args[argument.name] = None if dice.random() < 0.1 else value(dice, argument.policy_type)
    if dice.random() < 0.1:
        args["family" if "family" not in args else "unheard_of"] = dice.choice(TEXTS)
    task = dice.choice([None, *TEXTS])
    others = tuple(dict.fromkeys(dice.choices(TEXTS, k=dice.choice([0, 0, 1, 3]))))
    return Call(
        upstream,
        catalog.protocol,
        method.name,
        method.permission,
        args,
        dice.random() > 0.01,
        task,
        related_tasks=others,
    )


def generated_principals(dice: random.Random) -> list[Principal]:
    """Make a principal, and others that differ from it in one thing each."""
    roles = tuple(role for role in ("a", "b", "c") if dice.random() < 0.6)
    issuer = dice.choice([("https://a", "local"), ("https://b", "other")])
    groups = ("g1",) if dice.random() < 0.5 else ()
    one = Principal(*issuer, dice.choice(["s1", "s2", "etl.A"]), roles, groups, dice.random() < 0.3)
    return [
        one,
        replace(one, agent=not one.agent),
        replace(one, groups=() if groups else ("g1",)),
        replace(
            one, roles=tuple(sorted({"c", *roles} ^ ({"a"} if dice.random() < 0.5 else set())))
        ),
        replace(one, subject="s1" if one.subject != "s1" else "etl.A"),
        replace(one, expires=5.0),
    ]


def generated_set(dice: random.Random, directory: Path, catalogs: dict[str, Catalog]) -> PolicySet:
    """Load a set of generated policies, through the loader, which validates them."""
    writer = Policies(dice, catalogs)
    (directory / "roles.toml").write_text(ROLES)
    (directory / "generated.cedar").write_text(
        "".join(writer.text(number) for number in range(dice.randrange(1, 9)))
    )
    return load_policies(directory, catalogs)


@pytest.mark.parametrize("seed", range(SETS))
def test_cached_and_uncached_decisions_agree(
    seed: int, tmp_path: Path, catalogs: dict[str, Catalog]
) -> None:
    """Every call gets the decision of a fresh evaluation, so keys are never coarser than the reads.
    A call that `may_call` rules out is never allowed.
    """
    dice = random.Random(seed)
    policies = None
    while policies is None:
        try:
            policies = generated_set(dice, tmp_path, catalogs)
        except Exception as error:  # a generated argument that no covered method has
            assert "which no method that it covers has" in str(error)
    methods = [
        (upstream, catalog, method)
        for upstream, catalog in catalogs.items()
        for method in catalog.methods.values()
    ]
    few = dice.sample(methods, 12)  # few enough for the memory to be used, other ones in every set
    reasons = set()
    for _ in range(4):
        principals = generated_principals(dice)
        asked = [
            (dice.choice(principals), generated_call(dice, *dice.choice(few)))
            for _ in range(CALLS // 4)
        ]
        cached = [policies.decide(principal, call) for principal, call in asked]
        for principal in principals:
            own = [
                (call, decision)
                for (p, call), decision in zip(asked, cached, strict=True)
                if p is principal
            ]
            slowly = policies.decide_uncached(principal, [call for call, _ in own])
            for (call, decision), slow in zip(own, slowly, strict=True):
                assert decision == slow, (principal, call)
                assert not slow.allowed or policies.may_call(principal, call.upstream, call.method)
            reasons |= {decision.reason for decision in slowly}
    assert reasons - {Reason.UNKNOWN_METHOD}
