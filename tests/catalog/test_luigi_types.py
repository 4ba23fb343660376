import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.luigi_types import is_family, is_task_id, is_task_id_list, is_worker_id
from proxy.model import Value


def test_every_character_of_an_id_is_judged_alike_alone_and_in_a_list() -> None:
    """A character is accepted unless it controls something: a terminal, a line, a direction."""
    directions = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
    for number in (*range(0x3000), 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0x1F680):
        character = chr(number)
        kind = unicodedata.category(character)
        valid = kind not in ("Cc", "Zl", "Zp", "Cs") and number not in directions
        assert is_task_id("a" + character) == valid, hex(number)
        assert is_task_id_list(["a" + character]) == valid, hex(number)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a<b", False),
        ("a</b", False),
        ("a<!--", False),
        ("a < b > c", True),
        ("o'brien", True),
        ("o'brien onclick=x", False),
        ("date=1 o'brien", True),
        ("R&D &lt;b>", True),
        ('say "x"=1', True),
    ],
)
def test_no_name_is_markup_where_the_visualiser_puts_it(text: str, valid: bool) -> None:
    """It puts families between tags, and task ids between single quotes (visualiserApp.js)."""
    assert is_family(text) == is_task_id(text) == is_task_id_list([text, "a_1"]) == valid


IDS = st.one_of(
    st.sampled_from(
        [
            "",
            "a",
            "b" * 2047,
            "b" * 2048,
            "b" * 2049,
            "c" * 3000,
            "\n",
            "a\nb",
            "\u00e9",
            "a<b",
            "\ud800",
        ]
    ),
    st.sampled_from([1, None, True, b"a", ["a"], {"a": 1}]),
    st.integers(1, 2200).map("d".__mul__),
)


@given(st.lists(IDS, max_size=12) | st.lists(st.integers(1, 2049).map("d".__mul__), max_size=12))
def test_a_list_of_ids_is_valid_when_each_is(ids: list[Value]) -> None:
    """The check of all ids together agrees with the check of each."""
    assert is_task_id_list(ids) == all(map(is_task_id, ids))


@pytest.mark.parametrize("place", [0, 500, 999])
@pytest.mark.parametrize("odd", ["", "x" * 2048, "x" * 2049, "a\nb", "\n", "<", "\u00e9", 1])
def test_one_odd_id_among_a_thousand_decides(place: int, odd: Value) -> None:
    """The verdict is that of the odd id, at any position."""
    ids: list[Value] = [f"etl.A_{number}" for number in range(1000)]
    assert is_task_id_list(ids)
    ids[place] = odd
    assert is_task_id_list(ids) == is_task_id(odd)


@pytest.mark.parametrize("text", ["w", "Worker(salt=1, host=h)", "bücher-анна", "a:b/c"])
def test_an_id_that_was_valid_stays_valid_and_never_admits_a_longer_one(text: str) -> None:
    """The cache of valid ids is exact."""
    assert is_worker_id(text) and is_worker_id(text)
    assert not is_worker_id(text + " [local:ann]")
