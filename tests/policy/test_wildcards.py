"""Patterns of policies: Cedar's answer, in work bounded by a product."""

from collections.abc import Callable

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.wildcards import (
    MAX_PIECE_COST,
    Pattern,
    longest_prefix,
    longest_search,
    matcher,
    pieces_of,
    prefix_of,
)

ALPHABET = "ab.*\\\n\u00e9\U0001f600"
PATTERN = st.lists(
    st.one_of(st.none(), st.sampled_from(ALPHABET), st.text(alphabet="ab", max_size=3)), max_size=9
).map(lambda parts: tuple(c for part in parts for c in ((None,) if part is None else part)))


def parsed(written: str) -> Pattern:
    """Return the pattern that is written with a star for each wildcard."""
    return tuple(None if character == "*" else character for character in written)


def as_cedar(pattern: Pattern, text: str) -> bool:
    """Return whether Cedar says that `text` is like `pattern`."""
    escapes = {"*": "\\*", "\n": "\\n", "\\": "\\\\"}
    written = "".join("*" if part is None else escapes.get(part, part) for part in pattern)
    policy = f'permit (principal, action, resource) when {{ context.t like "{written}" }};'
    request = {
        "principal": {"type": "U", "id": "u"},
        "action": {"type": "Action", "id": "a"},
        "resource": {"type": "R", "id": "r"},
        "context": {"t": text},
    }
    return cedarpy.is_authorized(request, policy, []).allowed


@given(PATTERN, st.text(alphabet=ALPHABET, max_size=12))
def test_any_pattern_matches_as_cedar_matches(pattern: Pattern, text: str) -> None:
    """Runs of wildcards, stars that are escaped, empty pieces and letters of any script."""
    assert matcher(pattern)(text) == as_cedar(pattern, text)


@given(st.data(), PATTERN)
def test_a_text_made_for_a_pattern_matches_as_in_cedar(
    data: st.DataObject, pattern: Pattern
) -> None:
    """Texts that match, or nearly: a random text hardly ever has the pieces."""
    filler = st.text(alphabet="ab", max_size=4)
    text = "".join(data.draw(filler) if part is None else part for part in pattern)
    if text and data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(text) - 1))
        text = text[:cut] + text[cut + 1 :]
    assert matcher(pattern)(text) == as_cedar(pattern, text)


@pytest.mark.parametrize(
    ("written", "text", "expected"),
    [
        ("aba*ba", "aba", False),  # the pieces must not overlap
        ("aba*ba", "ababa", True),
        ("*ab*ab*", "ab", False),
        ("*ab*ab*", "abab", True),
        ("a**********b", "ab", True),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("*aab", "aaab", True),
        ("*a*aa", "aa", False),
    ],
)
def test_pieces_in_hard_places(written: str, text: str, expected: bool) -> None:
    """What a greedy search could get wrong."""
    assert matcher(parsed(written))(text) is expected
    assert as_cedar(parsed(written), text) is expected


class CountedText(str):
    """A text that counts the characters in which a piece was searched, times the piece."""

    work: int = 0

    def find(self, piece: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]  # positional, as it is called
        found = super().find(piece, start, len(self) if end is None else end)
        passed = (len(self) if end is None else end) if found < 0 else found + len(piece)
        self.work += (passed - start) * min(len(piece), MAX_PIECE_COST)
        return found


def backtracking(pattern: Pattern, text: str, enough: int) -> int:
    """Return the comparisons of a matcher that backtracks, as `re` does; stop at `enough`."""
    work = 0
    pending = [(0, 0)]
    while pending and work < enough:
        at, place = pending.pop()
        work += 1
        if at == len(pattern):
            if place == len(text):
                return work
        elif pattern[at] is None:
            if place < len(text):
                pending.append((at, place + 1))
            pending.append((at + 1, place))
        elif place < len(text) and text[place] == pattern[at]:
            pending.append((at + 1, place + 1))
    return work


ATTACKS = [
    ("*secret*prod*", "secret" * 500),
    ("*a*a*a*a*b", "a" * 2_000),
    ("a*a*a*a*a*a*a*a*a*ac*", "a" * 3_000),
    ("*" + "a" * 50 + "b*", "a" * 3_000),
]


@pytest.mark.interpreted
@pytest.mark.parametrize(("written", "text"), ATTACKS)
def test_work_is_bounded_by_a_product(written: str, text: str) -> None:
    """The old matcher, which backtracked, took the square of the text and more."""
    pattern = parsed(written)
    bound = len(text) * min(longest_search(pattern), MAX_PIECE_COST)
    counted = CountedText(text)
    assert not matcher(pattern)(counted)
    assert counted.work <= bound
    if pattern.count(None) > 2:
        assert backtracking(pattern, text, enough=20 * bound) == 20 * bound


@pytest.mark.interpreted
@given(PATTERN, st.text(alphabet="ab", max_size=60))
def test_work_of_any_pattern_is_within_the_bound(pattern: Pattern, text: str) -> None:
    """Each character is passed over once."""
    counted = CountedText(text)
    matcher(pattern)(counted)
    assert counted.work <= len(text) * min(longest_search(pattern), MAX_PIECE_COST)


def test_a_pattern_is_cut_at_its_wildcards() -> None:
    """Empty pieces are left out, except at both ends."""
    assert pieces_of(parsed("a**b*")) == ["a", "b", ""]
    assert pieces_of(parsed("ab")) == ["ab"]
    assert prefix_of(parsed("a**")) == "a"
    assert prefix_of(parsed("a*b")) is prefix_of(parsed("a")) is prefix_of(parsed("*a")) is None
    assert [longest_search(parsed(text)) for text in ("abc", "abc*", "a*bc", "*b*abc")] == [
        0,
        0,
        2,
        3,
    ]


@given(
    st.lists(st.text(alphabet="ab", max_size=5), min_size=1, max_size=8, unique=True),
    st.text(alphabet="ab", max_size=8),
)
def test_the_longest_prefix_is_found(prefixes: list[str], text: str) -> None:
    """As a search through all of them finds it."""
    having = [prefix for prefix in prefixes if text.startswith(prefix)]
    expected = prefixes.index(max(having, key=len)) + 1 if having else 0
    assert longest_prefix(prefixes)(text) == expected


@pytest.mark.interpreted
def test_many_prefixes_cost_one_look_up_for_each_length() -> None:
    """An alternation of them, as it was, tries each."""
    looked_up: list[str] = []

    class Counted(dict[str, int]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]  # for texts alone
            looked_up.append(key)
            return super().get(key)

    find: Callable[[str], object] = longest_prefix([f"team{number:04}." for number in range(2_000)])
    closure = dict(zip(find.__code__.co_freevars, find.__closure__ or (), strict=True))
    closure["numbers"].cell_contents = Counted(closure["numbers"].cell_contents)
    assert find("team1999.x") == 2_000
    assert find("other") == 0
    assert len(looked_up) == 2
