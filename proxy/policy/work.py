"""The work of a decision, bounded by a product that is known when a set loads.

Cedar matches a pattern in time of the text's length times the longest piece of the pattern after a
wildcard, once for each ``like`` that it evaluates. It copies every text and every item of a list
that policies read, and visits every part of the conditions of the policies that cover a method. So

    work = parts of the conditions + characters that are read x what the patterns search

The first factor of each product is limited when a set loads (`excess`), with the policy that goes
beyond it: `MAX_PATTERN`, `MAX_TEXT`, `MAX_POLICIES`, `MAX_PARTS` and `MAX_SEARCHED`. The characters
are the caller's: a call on which a decision would take more than `MAX_STEP_NS` is not decided on
the event loop (`DecisionCost`). Within the limits every call is, whose texts have up to 4,096
characters each. The shorter the patterns, the longer the texts may be: half a million characters
for ``*secret*prod*`` alone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol

from cedarpy import pst

from proxy.errors import Problem
from proxy.model import Value
from proxy.policy.context_reads import TASK_KEY, applies, attribute_path
from proxy.policy.schema import Action
from proxy.policy.wildcards import longest_search

# Characters and wildcards of one pattern.
MAX_PATTERN = 256
# Characters of one text in a policy.
MAX_TEXT = 4_096
# Policies that can apply to one method. Cedar tries the scope of each policy of a set (0.7 us).
MAX_POLICIES = 1_000
# Parts of the conditions of these: names, operators, texts, wildcards, entities (0.25 us each).
MAX_PARTS = 25_000
# What their patterns search, in characters: for each ``like`` its longest piece after a wildcard,
# and one more.
MAX_SEARCHED = 1_250
# Nanoseconds that a decision may take on the event loop, as `DecisionCost` estimates it.
MAX_STEP_NS = 12_000_000

# Measured on the slowest inputs of a kind, in nanoseconds.
_EVALUATION_NS = 40_000
_POLICY_NS = 700
_PART_NS = 250
_PLAIN_CHARACTER_NS = 10
_ESCAPED_CHARACTER_NS = 40
_WIDE_CHARACTER_NS = 160
_ITEM_NS = 900
# For each character of a text and each one that a pattern searches: in Cedar, and in `wildcards`.
_SEARCH_NS = 2
_PATTERN_NS = 150  # of a pattern or a length of prefixes, on each of many short texts
# Characters of a text that are always within `MAX_STEP_NS`.
_SHORT = 4_096
_LISTED = 3  # methods that a problem names


class Policy(Protocol):
    """A policy as loaded (`proxy.policy.engine.Policy`)."""

    @property
    def id(self) -> str:
        """Its ``@id``."""

    @property
    def file(self) -> str:
        """Its file."""

    @property
    def line(self) -> int:
        """The line where it begins."""

    @property
    def tree(self) -> pst.Template:
        """Its syntax tree."""


@dataclass(frozen=True, slots=True)
class DecisionCost:
    """What decisions on the calls of one method take, in nanoseconds.

    `fixed_ns` is for any call. `character_ns` is what patterns take for each character of an
    argument that policies read, in addition to copying it; `short_text_ns` for a short text.
    """

    fixed_ns: int
    character_ns: Mapping[str, int]
    short_text_ns: int

    def of_long(self, args: Mapping[str, Value], task: str | None) -> int:
        """Return the nanoseconds for what is long among the arguments that policies read.

        Zero for a call of usual size.
        """
        total = 0
        for at, search_ns in self.character_ns.items():
            value = task if at == TASK_KEY else args.get(at)
            if type(value) is str:
                if len(value) > _SHORT:
                    total += len(value) * (_character_ns(value) + search_ns)
            elif type(value) is list and value:
                characters = sum(map(len, value))  # type: ignore[arg-type]  # texts, or refused
                total += len(value) * _ITEM_NS + characters * _WIDE_CHARACTER_NS
        return total

    def of_tasks(self, tasks: Sequence[str]) -> int:
        """Return the nanoseconds to match `tasks` against what policies read of a task."""
        characters = sum(map(len, tasks))
        return len(tasks) * self.short_text_ns + characters * self.character_ns.get(TASK_KEY, 0)

    def of_evaluation(self, task: str) -> int:
        """Return the nanoseconds of one evaluation about `task`."""
        return self.fixed_ns + len(task) * (_WIDE_CHARACTER_NS + self.character_ns.get(TASK_KEY, 0))


def cost_of(
    policies: Sequence[pst.Template], name: str, action: Action, reads: Iterable[str]
) -> DecisionCost:
    """Return the cost of decisions on one method, of which policies read `reads`."""
    covering = [policy for policy in policies if applies(policy, name, action)]
    searched: Counter[str | None] = Counter()
    patterns = 0
    for policy in covering:
        for like in _likes(policy):
            patterns += 1
            searched[_read_by(like)] += 1 + longest_search(_pattern(like))
    parts = sum(_count_parts(policy.clauses) for policy in covering)
    return DecisionCost(
        _EVALUATION_NS + _POLICY_NS * len(policies) + _PART_NS * parts,
        {at: _SEARCH_NS * (searched[at] + searched[None]) for at in reads},
        _PATTERN_NS * (1 + patterns),
    )


def excess(policies: Sequence[Policy], actions: Mapping[str, Action]) -> list[Problem]:
    """Return a problem for each limit that the policies exceed, at the policy that exceeds it."""
    problems = [problem for policy in policies for problem in _excess_of_one(policy)]
    weights = [
        (
            1,
            _count_parts(policy.tree.clauses),
            sum(1 + longest_search(_pattern(like)) for like in _likes(policy.tree)),
        )
        for policy in policies
    ]
    found: dict[tuple[int, str], list[str]] = {}
    for name, action in actions.items():
        totals = [0] * len(_LIMITS)
        for number, (policy, weight) in enumerate(zip(policies, weights, strict=True)):
            if not applies(policy.tree, name, action):
                continue
            for place, (limit, what, _) in enumerate(_LIMITS):
                before, totals[place] = totals[place], totals[place] + weight[place]
                if before <= limit < totals[place]:
                    found.setdefault((number, what), []).append(name)
    limits = {what: (limit, hint) for limit, what, hint in _LIMITS}
    for (number, what), names in sorted(found.items()):
        limit, hint = limits[what]
        more = f" and {rest} more" if (rest := len(names) - _LISTED) > 0 else ""
        methods = ", ".join(sorted(names)[:_LISTED]) + more
        message = f"with it, {what} for {methods} are more than {limit}"
        problems.append(_problem(policies[number], message, hint))
    return problems


_LIMITS = (
    (MAX_POLICIES, "the policies", "Write one policy for several cases, or name fewer methods."),
    (MAX_PARTS, "the parts of conditions", "Shorten the conditions, or name fewer methods."),
    (
        MAX_SEARCHED,
        "the characters that patterns search",
        "Use fewer patterns with text after a wildcard, or shorter ones.",
    ),
)


def _excess_of_one(policy: Policy) -> Iterator[Problem]:
    for like in _likes(policy.tree):
        if len(like.pattern) > MAX_PATTERN:
            message = f"a pattern has {len(like.pattern)} characters, more than {MAX_PATTERN}"
            yield _problem(policy, message, "Shorten it, or cut it into several.")
    for node in _nodes(policy.tree.clauses):
        if isinstance(node, pst.StringLit) and len(node.value) > MAX_TEXT:
            message = f"a text has {len(node.value)} characters, more than {MAX_TEXT}"
            yield _problem(policy, message, "Shorten it.")


def _problem(policy: Policy, message: str, hint: str) -> Problem:
    return Problem(f"{policy.file}:{policy.line}", f"{policy.id}: {message}", hint)


def _character_ns(text: str) -> int:
    """Return the nanoseconds to hand one character of `text` to Cedar."""
    if not text.isascii():
        return _WIDE_CHARACTER_NS
    plain = '"' not in text and "\\" not in text and text.isprintable()
    return _PLAIN_CHARACTER_NS if plain else _ESCAPED_CHARACTER_NS


def _nodes(tree: object) -> Iterator[object]:
    """Yield the nodes of a syntax tree. Trees may be deep, so this does not recurse."""
    pending: list[object] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            pending += node.values()
        elif isinstance(node, tuple):
            pending += node
        elif is_dataclass(node) and not isinstance(node, type):
            yield node
            pending += [getattr(node, part.name) for part in fields(node)]


def _count_parts(tree: object) -> int:
    return sum(1 for node in _nodes(tree) if not isinstance(node, pst.Char))


def _likes(tree: object) -> Iterator[pst.Like]:
    return (node for node in _nodes(tree) if isinstance(node, pst.Like))


def _pattern(like: pst.Like) -> tuple[str | None, ...]:
    return tuple(part.value if isinstance(part, pst.Char) else None for part in like.pattern)


def _read_by(like: pst.Like) -> str | None:
    """Return what of a call a ``like`` reads; None if that is not known."""
    match attribute_path(like.base):
        case ("context", "task"):
            return TASK_KEY
        case ("context", "args", name):
            return name
        case _:
            return None
