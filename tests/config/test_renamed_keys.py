import re
from pathlib import Path

import pytest

from proxy.config.renamed_keys import RENAMED_KEYS, RENAMED_TABLES, renamed
from tests.support.settings import MINIMAL, problems

ROWS = ("issuers", "upstreams")
IN_TABLES = [old for old in RENAMED_KEYS if old.partition(".")[0] not in RENAMED_TABLES]


@pytest.mark.parametrize("old", IN_TABLES)
def test_an_old_key_in_the_file_is_refused_with_its_new_name(tmp_path: Path, old: str) -> None:
    """Settings of an earlier version say what to change, and where."""
    table, _, key = old.partition(".")
    header, row = (f"[[{table}]]", f"{table}[0]") if table in ROWS else (f"[{table}]", table)
    text = MINIMAL if header in MINIMAL else f"{MINIMAL}{header}\n"
    text = text.replace(f"{header}\n", f"{header}\n{key} = 1\n")
    problem = problems(tmp_path, text)[0]
    line = text[: text.index(f"\n{key} = 1")].count("\n") + 2
    new = RENAMED_KEYS[old].partition(".")[2]
    assert problem.location == f"callgate.toml:{line}: {row}.{key}"
    assert (problem.message, problem.hint) == (f"is renamed to {row}.{new}", "Use the new name.")


@pytest.mark.parametrize("old", [old for old in RENAMED_KEYS if "." in old])
def test_an_old_variable_is_refused_with_its_new_name(tmp_path: Path, old: str) -> None:
    """Overrides that name an old key say which variable to set."""
    table, _, key = old.partition(".")
    row = "0__" if table in ROWS else ""
    variable = f"CALLGATE__{table}__{row}{key}".upper()
    problem = problems(tmp_path, MINIMAL, {variable: "1"})[0]
    new = (
        RENAMED_KEYS[old].replace(".", "__")
        if not row
        else f"{table}__0__" + RENAMED_KEYS[old].partition(".")[2]
    )
    assert problem.location == f"environment: {variable}"
    assert problem.message == f"is renamed to CALLGATE__{new.upper()}"


def test_listen_port_is_the_port_of_the_first_listener(tmp_path: Path) -> None:
    """The commonest override of all."""
    (problem,) = problems(tmp_path, MINIMAL, {"CALLGATE__LISTEN__PORT": "9443"})
    assert problem.message == "is renamed to CALLGATE__LISTENERS__0__PORT"


@pytest.mark.parametrize("table", RENAMED_TABLES)
def test_an_old_table_is_one_problem(tmp_path: Path, table: str) -> None:
    """The table is named once, not with each of its keys, and nothing else is missing for it."""
    text = re.sub(r"\[\[listeners\]\]", f"[{table}]", MINIMAL)
    (problem,) = problems(tmp_path, text)
    assert problem.location == f"callgate.toml:1: {table}"
    assert problem.message == "is renamed to [[listeners]]"
    assert problem.hint == RENAMED_TABLES[table]


def test_an_old_table_in_the_file_and_in_the_environment_are_two_problems(tmp_path: Path) -> None:
    """The file and the variable are two places to change."""
    text = MINIMAL.replace("[[listeners]]", "[listen]")
    locations = [
        problem.location for problem in problems(tmp_path, text, {"CALLGATE__LISTEN__PORT": "1"})
    ]
    assert locations == ["environment: CALLGATE__LISTEN__PORT", "callgate.toml:1: listen"]


def test_other_keys_are_not_renamed() -> None:
    """A key is old only in its own table."""
    assert renamed(("upstreams", 3, "prefix")) == ("upstreams", 3, "path_prefix")
    assert renamed(("limits", "prefix")) is None
    assert renamed(("upstreams",)) is None
