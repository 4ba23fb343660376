"""Overrides of settings by environment variables.

``CALLGATE__LISTENERS__0__PORT=9443`` overrides ``listeners[0].port``: two underscores separate the
parts, and rows count from 0. The number after the last row adds a row. The value is read as a TOML
value, or as text if it is none.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from proxy.common.toml_lines import Loc
from proxy.errors import Problem

PREFIX = "CALLGATE__"


class Overrides:
    """What the environment sets, and the problems of variables that name no place."""

    def __init__(self, environ: Mapping[str, str], tables: dict[str, Any]) -> None:
        """Apply the variables of `environ` to `tables`, which are changed."""
        self.variables: dict[Loc, str] = {}
        self.problems: list[Problem] = []
        for variable in sorted(name for name in environ if name.startswith(PREFIX)):
            loc = tuple(
                int(part) if part.isdecimal() else part.lower()
                for part in variable.removeprefix(PREFIX).split("__")
            )
            try:
                _assign(tables, loc, _toml_value(environ[variable]))
            except (LookupError, TypeError):
                hint = "Write CALLGATE__TABLE__KEY; rows count from 0, without a gap."
                problem = Problem(
                    f"environment: {variable}", "is not a place in the settings", hint
                )
                self.problems.append(problem)
            else:
                self.variables[loc] = variable

    def source_of(self, loc: Loc) -> str | None:
        """Return the variable that set `loc` or a table around it."""
        starts = (loc[:end] for end in range(len(loc), 0, -1))
        return next((self.variables[start] for start in starts if start in self.variables), None)

    def inside(self, loc: Loc) -> dict[Loc, str]:
        """Return the variables that set something inside `loc`."""
        return {
            place: variable
            for place, variable in self.variables.items()
            if place[: len(loc)] == loc and place != loc
        }


def variable_name(loc: Loc) -> str:
    """Return the variable that overrides `loc`."""
    return PREFIX + "__".join(str(part).upper() for part in loc)


def _assign(tree: Any, loc: Loc, value: object) -> None:
    """Set ``tree[loc]``, making tables and the next row of a list on the way.

    Raises:
        LookupError, TypeError: there is no such place.

    """
    if not all(part != "" for part in loc):
        raise LookupError
    for part, following in zip(loc, (*loc[1:], None), strict=True):
        fresh: object = value if following is None else ([] if isinstance(following, int) else {})
        if isinstance(tree, list):
            if not isinstance(part, int) or part > len(tree):
                raise LookupError
            if part == len(tree):
                tree.append(fresh)
        elif isinstance(tree, dict):
            if not isinstance(part, str):
                raise LookupError
            tree.setdefault(part, fresh)
        else:
            raise TypeError
        if following is None:
            tree[part] = value
        tree = tree[part]


def _toml_value(text: str) -> object:
    if "\n" in text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
