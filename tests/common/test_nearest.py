import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.common import nearest
from proxy.common.nearest import MAX_LENGTH, nearest_names

NAMES = ["supervisor.getState", "supervisor.getPID", "add_task", "add_worker", "task_list", "system.listMethods"]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("getState", "supervisor.getState"), ("GETSTATE", "supervisor.getState"), ("supervisor.getstate", "supervisor.getState"),
        ("supervisor.getSate", "supervisor.getState"), ("add_taks", "add_task"), ("Add_Task", "add_task"), ("tasklist", "task_list"),
        ("system.listMethod", "system.listMethods"), ("listMethods", "system.listMethods"),
    ],
)  # fmt: skip
def test_a_misspelt_name_has_the_right_one_first(wanted: str, first: str) -> None:
    """Letters, their case, and a namespace that is missing."""
    assert nearest_names(wanted, NAMES)[0] == first


@pytest.mark.parametrize("wanted", ["", "zzz", "x" * 64, "add_task" * 9, "."])
def test_a_wild_name_has_none(wanted: str) -> None:
    """A proposal that is not near would send people the wrong way."""
    assert nearest_names(wanted, NAMES) == []


def test_a_right_name_is_not_its_own_proposal() -> None:
    """It was refused for another reason."""
    assert "add_task" not in nearest_names("add_task", NAMES)


def test_of_many_names_the_right_one_is_found() -> None:
    """Those that are compared are those that are alike, not the first ones."""
    names = [f"module{number}.operation_{number}" for number in range(390)]
    assert nearest_names("module377.opreation_377", names)[0] == "module377.operation_377"


def test_what_is_compared_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names a catalog has, and however alike they are."""
    seen: list[int] = []

    def count(wanted: str, names: list[str], **_: object) -> list[str]:
        seen.append(len(names))
        return []

    monkeypatch.setattr(nearest, "get_close_matches", count)
    assert (
        nearest_names("z" * MAX_LENGTH, ["z" * 60 + str(number) for number in range(10_000)]) == []
    )
    assert seen == [8]
    assert nearest_names("z" * (MAX_LENGTH + 1), ["z"]) == []
    assert len(seen) == 1


@given(st.text(max_size=100), st.lists(st.text(max_size=100), max_size=40))
def test_what_is_found_is_one_of_the_names(wanted: str, names: list[str]) -> None:
    """Never an error, never another text."""
    assert set(nearest_names(wanted, names)) <= set(names) - {wanted}
