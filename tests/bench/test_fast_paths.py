"""The switches of the fast paths: each names a function that is there, and takes it out."""

import pytest

from proxy.protocol import strict_json
from proxy.protocol.xmlrpc.grammar import Reader
from tests.bench import fast_paths


@pytest.mark.interpreted
@pytest.mark.parametrize("name", fast_paths.SWITCHES)
def test_a_switch_replaces_a_function_that_exists(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it, the fast path misses."""
    owner, attribute, replacement = fast_paths.SWITCHES[name]
    assert callable(getattr(owner, attribute))
    monkeypatch.setattr(owner, attribute, getattr(owner, attribute))  # restored afterwards
    fast_paths.switch_off(name)
    assert getattr(owner, attribute) is replacement


@pytest.mark.interpreted
def test_the_slow_path_gives_what_the_fast_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch changes the cost of a call and nothing else."""
    text = b'{"task_id": "a", "deps": ["b", "c"], "priority": 3}'
    fast = strict_json.parse_arguments(text)
    monkeypatch.setattr(strict_json, "parse_fast", strict_json.parse_fast)
    monkeypatch.setattr(Reader, "_texts", Reader._texts)
    fast_paths.switch_off("json,text-arrays,")
    assert strict_json.parse_arguments(text) == fast


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=r"'heads': use answers, caches, json"):
        fast_paths.switch_off("heads")
