"""Every key of the settings is either read anew by a reload, or reported as not in force."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from proxy.cli.unapplied import PINNED, overrides_unseen, pinned, unapplied
from proxy.config.loading import Settings, load_settings
from tests.support.installation import IDP, SETTINGS, install


@pytest.fixture
def first(tmp_path: Path) -> Settings:
    """Settings with every table, as a supervisor began with them."""
    install(tmp_path)
    state = '[state]\ndirectory = "state"\n'
    (tmp_path / "callgate.toml").write_text(SETTINGS + IDP + state)
    return load_settings(tmp_path / "callgate.toml")


def leaves(table: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key; a list of tables has the path of its first row."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield from leaves(value[0], (*path, f"{name}[]"))
        elif isinstance(value, BaseModel):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def changed(table: Any, path: tuple[str, ...], value: object) -> Any:
    """Return `table` with another value at `path`."""
    name = path[0].removesuffix("[]")
    inner: object = value
    if len(path) > 1 and path[0].endswith("[]"):
        rows = getattr(table, name)
        inner = (changed(rows[0], path[1:], value), *rows[1:])
    elif len(path) > 1:
        inner = changed(getattr(table, name), path[1:], value)
    return table.model_copy(update={name: inner})


def value_at(table: Any, path: tuple[str, ...]) -> object:
    """Return the value at `path`."""
    for part in path:
        table = getattr(table, part.removesuffix("[]"))
        table = table[0] if part.endswith("[]") else table
    return table


def told(first: Settings, now: Settings, **has: Any) -> list[str]:
    """Return the keys that are reported."""
    members = {"log_origin": "callgate/gate", "max_clients": 1 << 30, **has}
    return [problem.location for problem in unapplied(first, now, **members)]


def test_every_key_is_read_anew_or_reported(first: Settings) -> None:
    """A changed value of any key reaches the new processes; that of a pinned one does not, and is
    reported by the name of its key or table.
    """
    paths = list(leaves(first))
    assert {".".join(path) for path in paths} >= set(PINNED)
    assert len(paths) >= 60
    for path in paths:
        key = ".".join(path)
        sentinel: Any = "else"
        if key in ("processes", "limits.max_connections"):
            sentinel = 7
        elif "directory" in key:
            sentinel = Path("/else")
        now = changed(first, path, sentinel)
        served = value_at(pinned(first, now), path)
        reported = told(first, now)
        if key in PINNED:
            assert served == value_at(first, path), key
            assert reported == ["listeners" if "listeners" in key else key], key
        elif key == "audit.origin_prefix":
            assert reported == [key]  # a log keeps the one that it began with
        else:
            assert served == sentinel, key
            assert reported == [], key


def test_nothing_changed_nothing_reported(first: Settings) -> None:
    """Also with the rows of listeners in another order."""
    assert told(first, first) == []
    plain = changed(first, ("listeners[]", "port"), 9000).listeners
    both = first.model_copy(update={"listeners": (*first.listeners, *plain)})
    turned = both.model_copy(update={"listeners": both.listeners[::-1]})
    assert told(both, turned) == []


def test_listeners_are_named_one_by_one(first: Settings) -> None:
    """Which address is not listened on, and which still is."""
    now = changed(first, ("listeners[]", "port"), 9000)
    [problem] = unapplied(first, now, log_origin="callgate/gate", max_clients=1 << 30)
    assert "127.0.0.1 port 9000 is not listened on" in problem.message
    assert "127.0.0.1 port 8443 is still listened on" in problem.message
    assert "Restart" in problem.hint


def test_a_limit_that_the_system_does_not_allow_is_reported_when_asked_for(
    first: Settings,
) -> None:
    """The default may be more than the open files allow; a number that somebody wrote is asked
    for.
    """
    assert told(first, first, max_clients=900) == []
    now = changed(first, ("limits", "max_connections"), 5000)
    assert told(first, now, max_clients=5000) == []
    assert told(first, now, max_clients=4999) == ["limits.max_connections"]


def test_a_log_that_began_with_another_prefix_is_reported(first: Settings) -> None:
    """A restart does not change it either, and the hint does not say so."""
    [problem] = unapplied(first, first, log_origin="acme/gate", max_clients=1 << 30)
    assert problem.location == "audit.origin_prefix" and "acme/gate" in problem.message
    assert "audit.name" in problem.hint


def test_overrides_that_the_process_was_not_started_with_are_reported() -> None:
    """A process keeps the environment of its start; other variables do not matter."""
    environ = dict(os.environ) | {"CALLGATE__PROCESSES": "4", "OTHER": "x"}
    [problem] = overrides_unseen(os.getpid(), environ)
    assert problem.location == "environment: CALLGATE__PROCESSES"
    assert list(overrides_unseen(os.getpid(), os.environ)) == []
    assert list(overrides_unseen(2**22 + 1, environ)) == []
