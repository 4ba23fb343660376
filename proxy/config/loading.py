"""The settings of a gate: one TOML file, overridden by the environment, every problem reported at
once.

Laws: every key has a default or an error that names it; unknown keys are errors; a secret is never
a literal; relative paths start at the settings file. ``CALLGATE__LISTEN__PORT=9443`` overrides
``listen.port`` (two underscores are a dot, ``CALLGATE__UPSTREAMS__0__URL`` is the first
upstream's); its value is read as a TOML value, or as text where it is none.

Settings stop where things are wired (`proxy.runtime.process`, `proxy.cli`); below that there are
plain arguments. The tables stand in `proxy.config.model`, the kinds of values in
`proxy.config.values`, what must fit together in `proxy.config.cross_checks`.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.config.cross_checks import cross_checks
from proxy.config.model import Issuer, LocalIssuer, Settings, Upstream
from proxy.config.renamed_keys import RENAMED_KEYS
from proxy.config.values import Context, Secret
from proxy.errors import ConfigError, Problem

__all__ = [
    "Issuer",
    "LocalIssuer",
    "Secret",
    "Settings",
    "Upstream",
    "load_settings",
    "read_tables",
]

ENVIRONMENT_PREFIX = "CALLGATE__"
Loc: TypeAlias = tuple[str | int, ...]  # ("upstreams", 0, "url")


def load_settings(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings in `path`, overridden by `environ`.

    Raises `ConfigError` with every problem of the file and of the files it names, not with the
    first alone.
    """
    tables, problems = read_tables(path, environ)
    if problems:
        raise ConfigError(problems)
    return Settings(file=path.absolute(), **tables)


def read_tables(
    path: Path, environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, Any], list[Problem]]:
    """Read as much of the settings as can be read: the good tables by name, and every problem. None
    stands for a bad table or row.

    For who goes on looking for problems elsewhere. Raises `ConfigError` when the file is no TOML or
    cannot be read.
    """
    reading = _Reading(path, environ)
    raw = _read(path)
    reading.override(raw)
    reading.unknown_keys(raw, Settings, ())
    tables = {name: reading.table(name, raw) for name in Settings.model_fields if name != "file"}
    for name in ("issuers", "upstreams"):
        tables[name] = tuple(tables[name] or ())
    tables["upstreams"] = tuple(
        upstream and _completed(upstream) for upstream in tables["upstreams"]
    )
    return tables, [*reading.problems, *cross_checks(raw, tables, path.name)]


class _Reading:
    """One reading of one file: gathers the problems, and knows for each key whether the file or the
    environment gave it.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        """Start with no problems."""
        self.file = path.name
        self.environ = environ
        self.context: Context = {"base": path.absolute().parent, "environ": environ}
        self.origins: dict[Loc, str] = {}
        self.problems: list[Problem] = []

    def override(self, raw: dict[str, Any]) -> None:
        """Lay ``CALLGATE__…`` over `raw`."""
        for variable in sorted(
            name for name in self.environ if name.startswith(ENVIRONMENT_PREFIX)
        ):
            loc = tuple(
                int(part) if part.isdecimal() else part.lower()
                for part in variable.removeprefix(ENVIRONMENT_PREFIX).split("__")
            )
            try:
                _assign(raw, loc, _toml_value(self.environ[variable]))
            except (LookupError, TypeError):
                remedy = "Write CALLGATE__TABLE__KEY; rows count from 0, without a gap."
                self.problems.append(
                    Problem(f"environment: {variable}", "names no place in the settings", remedy)
                )
            else:
                self.origins[loc] = variable

    def unknown_keys(self, raw: object, model: type[BaseModel], loc: Loc) -> None:
        """Report every key of the table `raw`, and of the tables in it, that `model` does not have."""
        if not isinstance(raw, dict):
            return
        known = [name for name in model.model_fields if (model, name) != (Settings, "file")]
        for key, value in raw.items():
            here = (*loc, key)
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                remedy = (
                    f"Did you mean {near[0]}?"
                    if near
                    else f"Remove it; known here: {', '.join(known)}."
                )
                what = "is not a setting"
                if renamed := RENAMED_KEYS.get(
                    _dotted(tuple(part for part in here if isinstance(part, str)))
                ):
                    what = f"is renamed to {self.name((*loc, renamed), here)}"
                    remedy = "Use the new name."
                # a variable can make a whole table
                inner = next((loc for loc in self.origins if loc[: len(here)] == here), here)
                self.problems.append(Problem(self.place(inner), what, remedy))
            elif section := _section_of(model.model_fields[key].annotation):
                for number, row in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    self.unknown_keys(row, section, here if number is None else (*here, number))

    def table(self, name: str, raw: Mapping[str, Any]) -> Any:
        """Read one table, or the rows of one list of tables; None for each that failed."""
        field = Settings.model_fields[name]
        section = _section_of(field.annotation)
        assert section is not None, "every setting stands in a table"
        if name not in raw and not field.is_required():
            return field.get_default(call_default_factory=True)
        # A required table that is not there is read as an empty one, so that each of its missing
        # keys is named.
        value = raw.get(name, {})
        if field.annotation is None or get_origin(field.annotation) is not tuple:
            return self._section(section, value, (name,))
        if not isinstance(value, list):
            self.problems.append(
                Problem(
                    self.place((name,)), "must be a list of tables", f"Write [[{name}]] above each."
                )
            )
            return None
        return tuple(
            self._section(section, row, (name, number)) for number, row in enumerate(value)
        )

    def _section(self, model: type[BaseModel], value: object, loc: Loc) -> BaseModel | None:
        try:
            return model.model_validate(_tuples(value), context=self.context)
        except ValidationError as error:
            self.problems += (
                self._problem(e, loc) for e in error.errors(include_input=False, include_url=False)
            )
            return None

    def place(self, loc: Loc) -> str:
        """Say where `loc` was written: in the file, or in a variable of the environment."""
        for length in range(len(loc), 0, -1):
            if variable := self.origins.get(loc[:length]):
                return f"environment: {variable}"
        return f"{self.file}: {_dotted(loc)}"

    def name(self, loc: Loc, instead_of: Loc) -> str:
        """Return what `loc` is called where `instead_of` was written."""
        if instead_of in self.origins:
            return ENVIRONMENT_PREFIX + "__".join(str(part).upper() for part in loc)
        return _dotted(loc)

    def _problem(self, error: ErrorDetails, loc: Loc) -> Problem:
        """Say a pydantic error as a `Problem`. The value that was refused is not repeated: it may
        be a secret in the wrong place.
        """
        where = (*loc, *error["loc"])
        about = _description(where)
        remedy = f"It is {about}." if about else "See deploy/callgate.toml for an example."
        context = error.get("ctx", {})
        match error["type"]:
            case "callgate":
                what, remedy = context["what"], context["remedy"]
            case "missing":
                what, remedy = "is missing", f"Set it: {about}."
            case "literal_error":
                what = f"must be {context['expected'].replace(chr(39), chr(34))}"
            case kind if bound := _BOUNDS.get(kind):
                what = f"must be {bound[0]} {context[bound[1]]:g}"
            case other:
                what = _SAID.get(other, error["msg"])
        return Problem(self.place(where), what, remedy)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(
            [Problem(f"{path.name}:{line}", "is not UTF-8 text", "Save the file as UTF-8.")]
        ) from error
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    str(path),
                    f"cannot be read ({error.strerror})",
                    "Name the settings file with --config; deploy/callgate.toml is an example.",
                )
            ]
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rpartition(" (at ")
        raise ConfigError(
            [
                Problem(
                    path.name,
                    f"is not valid TOML at {where.rstrip(')')}: {what[:1].lower()}{what[1:]}",
                    "Mend that line; see https://toml.io.",
                )
            ]
        ) from error


def _assign(tree: Any, loc: Loc, value: object) -> None:
    """Set ``tree[loc]``, making tables and the next row of a list on the way; LookupError or
    TypeError when that is impossible.
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
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        return text


def _tuples(value: object) -> object:
    """Turn lists into tuples all the way down: a strict model wants the type that its frozen field
    has.
    """
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _section_of(annotation: object) -> type[BaseModel] | None:
    """Find the model in an annotation: itself, of a tuple's rows, or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_of(part))), None)


def _dotted(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_SAID = {  # pydantic's error types, in the words of someone who edits a file
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "model_type": "must be a table",
    "dict_type": "must be a table",
}


def _description(loc: Loc) -> str:
    model: type[BaseModel] | None = Settings
    about = ""
    for part in loc:
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return about
        field = model.model_fields[part]
        about, model = field.description or "", _section_of(field.annotation)
    return about


def _completed(upstream: Upstream) -> Upstream:
    """Fill in the defaults that depend on the protocol."""
    if upstream.protocol == "luigi":
        return upstream if upstream.catalog else upstream.model_copy(update={"catalog": "luigi"})
    return (
        upstream
        if upstream.upstream_path
        else upstream.model_copy(update={"upstream_path": "/RPC2"})
    )
