"""The settings: one TOML file, overridden by the environment, every problem reported at once.

Rules: every key has a default or an error that names it. Unknown keys are errors. A secret is never
a literal. Relative paths start at the settings file.

Settings stop where parts are wired (`proxy.runtime`, `proxy.cli`); below that there are plain
arguments. The tables are in `proxy.config.model`, the kinds of values in `proxy.config.values`,
environment variables in `proxy.config.overrides`, rules across tables in
`proxy.config.cross_checks`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.common.toml_lines import Loc, toml_lines
from proxy.common.validation import (
    dotted,
    errors_of,
    freeze,
    in_file,
    nearest_key,
    parse_toml,
    problem_of,
)
from proxy.config.cross_checks import cross_checks
from proxy.config.model import Issuer, LocalIssuer, Settings, Upstream
from proxy.config.overrides import Overrides, variable_name
from proxy.config.partial import PartialSettings
from proxy.config.renamed_keys import RENAMED_TABLES, renamed
from proxy.config.values import Context, Secret
from proxy.errors import ConfigError, Problem

__all__ = [
    "Issuer",
    "LocalIssuer",
    "PartialSettings",
    "Secret",
    "Settings",
    "Upstream",
    "load_settings",
    "read_settings",
]

_DEFAULT_HINT = "See deploy/callgate.toml for an example."


def load_settings(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in `path`, overridden by `environ`.

    Raises:
        ConfigError: with every problem of the file and of the files it names.

    """
    reading = _Reading(path, environ)
    problems = list(reading.problems())
    if problems:
        raise ConfigError(problems)
    assert reading.settings is not None, "settings without a problem are valid"
    return reading.settings


def read_settings(
    path: Path, environ: Mapping[str, str] = os.environ
) -> tuple[PartialSettings, list[Problem]]:
    """Return what can be read of the settings, and every problem of them.

    Raises:
        ConfigError: the file cannot be read or is not TOML.

    """
    reading = _Reading(path, environ)
    return reading.partial, list(reading.problems())


class _Reading:
    """One reading of one file: its tables with the overrides, and what pydantic makes of them."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        text = _read(path)
        tables = self._tables = parse_toml(text, path.name)
        self._lines = toml_lines(text)
        self._locate_in_file = in_file(path.name, text)
        self._overrides = Overrides(environ, tables)
        context: Context = {"file": path.absolute(), "environ": environ}
        for name, field in Settings.model_fields.items():
            if field.is_required():
                tables.setdefault(name, {})  # so that each of its missing keys is named
        self.settings: Settings | None = None
        self._errors: list[ErrorDetails] = []
        try:
            self.settings = Settings.model_validate(freeze(tables), context=context)
            self.partial = replace(PartialSettings.of(self.settings), locate=self._location)
        except ValidationError as error:
            self._errors = errors_of(error)
            self.partial = PartialSettings.salvage(tables, context, self._location)

    def problems(self) -> Iterator[Problem]:
        """Yield every problem, in the order of the file's model."""
        yield from self._overrides.problems
        meant: set[Loc] = set()  # keys that an unknown key stands for: they are not missing, too
        unknown = [details for details in self._errors if details["type"] == "extra_forbidden"]
        for details in unknown:
            meant |= self._meant_by(details["loc"])
            yield from self._unknown(details)
        for details in self._errors:
            starts = {details["loc"][:end] for end in range(len(details["loc"]) + 1)}
            explained = details["type"] == "missing" and starts & meant
            if details not in unknown and not explained:
                yield problem_of(details, Settings, self._location, default_hint=_DEFAULT_HINT)
        filled = {name for name, value in self._tables.items() if value != []}
        given = filled | {str(loc[0]) for loc in meant}
        yield from cross_checks(self.partial, given)

    def _location(self, loc: Loc) -> str:
        """Return where `loc` was written: in the file, or in a variable of the environment."""
        variable = self._overrides.source_of(loc)
        return f"environment: {variable}" if variable else self._locate_in_file(loc)

    def _meant_by(self, loc: Loc) -> set[Loc]:
        new = renamed(loc)
        if new is not None:
            return {new}
        near = nearest_key(Settings, loc)
        return set() if near is None else {(*loc[:-1], near)}

    def _unknown(self, details: ErrorDetails) -> Iterator[Problem]:
        """Yield a problem for an unknown key, or for each variable that made an unknown table."""
        loc = details["loc"]
        variables = self._overrides.inside(loc)
        for inner, variable in variables.items():
            location = f"environment: {variable}"
            yield self._renamed(inner, location, variable_name) or problem_of(
                details, Settings, partial(_always, location)
            )
        if not variables or loc in self._lines:
            named = variable_name if self._overrides.source_of(loc) else dotted
            yield self._renamed(loc, self._location(loc), named) or problem_of(
                details, Settings, self._location
            )

    def _renamed(self, loc: Loc, location: str, named: Callable[[Loc], str]) -> Problem | None:
        new = renamed(loc)
        if new is None:
            return None
        if len(loc) == 1 and loc[0] in RENAMED_TABLES:
            return Problem(location, f"is renamed to [[{new[0]}]]", RENAMED_TABLES[str(loc[0])])
        return Problem(location, f"is renamed to {named(new)}", "Use the new name.")


def _always(location: str, _loc: Loc) -> str:
    return location


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "Name the settings file with --config; deploy/callgate.toml is an example."
        problem = Problem(str(path), f"cannot be read ({error.strerror})", hint)
        raise ConfigError([problem]) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = Problem(f"{path.name}:{line}", "is not UTF-8 text", "Save the file as UTF-8.")
        raise ConfigError([problem]) from error
