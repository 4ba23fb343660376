from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.validation_cache import KEPT, Known
from proxy.model import Value


class Rule:
    """A rule that counts how often it was asked: texts of digits are good."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, text: str) -> bool:
        self.asked += 1
        return text.isdigit()


TEXTS = st.sampled_from(["1", "22", "x", "", "1x"])


@given(st.lists(st.one_of(TEXTS, st.lists(TEXTS, max_size=4))))
def test_the_memory_never_changes_a_verdict(asked: list[str | list[str]]) -> None:
    """Whatever was asked before, one by one or together: a text is good exactly when the rule says
    so.
    """
    known = Known(str.isdigit)
    for one in asked:
        if isinstance(one, str):
            assert known.is_good(one) == one.isdigit()
        else:
            assert known.are_good(one) == all(text.isdigit() for text in one)


def test_a_good_text_is_looked_at_once() -> None:
    """Again, it is only looked up; a bad one is looked at every time."""
    rule = Rule()
    known = Known(rule)
    assert all(known.is_good("1") and known.are_good({"1": None}) for _ in range(5))
    assert rule.asked == 1
    assert not any(known.is_good("x") for _ in range(5))
    assert rule.asked == 6
    assert known.good == {"1"}


def test_what_is_no_text_is_not_good() -> None:
    """Also what cannot be looked up in a set, and what equals nothing."""
    known = Known(str.isdigit)
    values: list[Value] = [1, None, True, 1.5, [], {}, b"1", ["1"]]
    assert not any(map(known.is_good, values))


def test_the_memory_is_bounded() -> None:
    """Ever new names never make it grow beyond its bound, and very many in one object are not
    remembered at all.
    """
    rule = Rule()
    known = Known(rule)
    good = known.good
    assert known.are_good([str(number) for number in range(2 * KEPT)])
    assert known.are_good(["0"])
    assert rule.asked == 2 * KEPT + 1
    for number in range(2 * KEPT + 1):
        assert known.is_good(str(number))
    rule.asked = 0
    assert known.is_good(str(2 * KEPT))
    assert known.is_good("1")
    assert rule.asked == 1, "what came last is remembered, what came first is forgotten"
    assert known.good is good and len(good) <= KEPT
