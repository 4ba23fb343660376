"""TOML tables checked by pydantic models, with every error as a `Problem` for the file's author.

The settings, the catalogs and the roles are read through this module, so all three report alike:

    tables = parse_toml(text, "roles.toml")
    try:
        return Model.model_validate(freeze(tables))
    except ValidationError as error:
        raise ConfigError(problems_of(error, Model, in_file("roles.toml", text))) from None

Models are strict, frozen and forbid extra keys; lists become tuples (`freeze`). A validator of a
model raises `invalid(message, hint)`. A field's description completes the sentence "It is ...".
No message repeats the value that it refuses: the value may be a secret in the wrong place.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from proxy.common.toml_lines import Loc, line_of, toml_lines
from proxy.errors import ConfigError, Problem

Locate: TypeAlias = Callable[[Loc], str]
"""From the keys that lead to a value to where it is written, for `Problem.location`."""

_INVALID = "callgate"
_KEY = "[key]"  # pydantic's last part of a location when the key itself is refused
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_MESSAGES = {
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


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Parse the text of `file`.

    Raises:
        ConfigError: it is not TOML; the location has the line.

    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, where = str(error).rpartition(" (at ")
        words = where.rstrip(")").split()  # "line 3, column 5" or "end of document"
        line = words[1].rstrip(",") if words[0] == "line" else str(text.count("\n") + 1)
        problem = Problem(
            f"{file}:{line}",
            f"is not valid TOML: {message[:1].lower()}{message[1:]}",
            "Fix the syntax on that line; see https://toml.io.",
        )
        raise ConfigError([problem]) from None


def freeze(value: object) -> object:
    """Return `value` with tuples for its lists, which strict models of frozen fields ask for."""
    if isinstance(value, list):
        return tuple(freeze(item) for item in value)
    if isinstance(value, dict):
        return {key: freeze(item) for key, item in value.items()}
    return value


def invalid(message: str, hint: str, *, key: str | None = None) -> PydanticCustomError:
    """Return the error that a validator raises; `key` is a key of the table that is validated."""
    context = {"message": message, "hint": hint, "key": key}
    return PydanticCustomError(_INVALID, "{message}", context)


def in_file(file: str, text: str) -> Locate:
    """Return a function that locates values in TOML `text`: ``roles.toml:7: roles.viewer[0]``."""
    lines = toml_lines(text)

    def locate(loc: Loc) -> str:
        line = line_of(lines, loc)
        return f"{file}{'' if line is None else f':{line}'}: {dotted(loc)}"

    return locate


def dotted(loc: Loc) -> str:
    """Return `loc` as people write it: ``upstreams[0].url``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def problems_of(
    error: ValidationError,
    model: type[BaseModel],
    locate: Locate,
    *,
    default_hint: str = "",
) -> list[Problem]:
    """Return the errors of validating a table against `model`, one `Problem` each.

    `default_hint` is for errors of fields that have no description. A key that is missing because
    it was misspelt is one problem, not two.
    """
    details = errors_of(error)
    meant = {
        (*one["loc"][:-1], near)
        for one in details
        if one["type"] == "extra_forbidden" and (near := nearest_key(model, one["loc"]))
    }
    return [
        problem_of(one, model, locate, default_hint=default_hint)
        for one in details
        if one["type"] != "missing" or one["loc"] not in meant
    ]


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors without the values that were refused.

    A default that depends on a refused value is no error of its own.
    """
    return [
        details
        for details in error.errors(include_input=False, include_url=False)
        if details["type"] != "default_factory_not_called"
    ]


def problem_of(
    error: ErrorDetails,
    model: type[BaseModel],
    locate: Locate,
    *,
    default_hint: str = "",
) -> Problem:
    """Return one error as a problem; the arguments are those of `problems_of`."""
    inside = tuple(part for part in error["loc"] if part != _KEY)
    about = description_of(model, inside)
    hint = f"It is {about}." if about else default_hint
    context = error.get("ctx", {})
    match error["type"]:
        case "callgate":
            message, hint = context["message"], context["hint"]
            inside += () if context["key"] is None else (context["key"],)
        case "missing":
            message, hint = "is missing", f"Set it: {about}." if about else default_hint
        case "extra_forbidden":
            table = _model_at(model, inside[:-1])
            message, hint = "is not a known key", hint_for_unknown(str(inside[-1]), names_of(table))
        case "literal_error":
            message = f"must be {context['expected'].replace(chr(39), chr(34))}"
        case kind if bound := _BOUNDS.get(kind):
            message = f"must be {bound[0]} {context[bound[1]]:g}"
        case other:
            message = _MESSAGES.get(other, error["msg"])
    return Problem(locate(inside), message, hint)


def hint_for_unknown(key: str, known: list[str]) -> str:
    """Return the hint for a key that is not one of `known`: the nearest name, or all of them."""
    near = _nearest(key, known)
    return f"Did you mean {near}?" if near else f"Remove it; known here: {', '.join(known)}."


def nearest_key(model: type[BaseModel], loc: Loc) -> str | None:
    """Return the key of the table that the unknown key at `loc` may be a misspelling of."""
    return _nearest(str(loc[-1]), names_of(_model_at(model, loc[:-1])))


def _nearest(key: str, known: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def names_of(model: type[BaseModel] | None) -> list[str]:
    """Return the keys of a table, as files spell them."""
    fields = {} if model is None else model.model_fields
    return [field.alias or name for name, field in fields.items()]


def description_of(model: type[BaseModel], loc: Loc) -> str:
    """Return the description of the field at `loc` in a table of `model`, or an empty string."""
    *above, name = (part for part in loc if isinstance(part, str)) if loc else ("",)
    table = _model_at(model, tuple(above))
    for key, field in {} if table is None else table.model_fields.items():
        if name == (field.alias or key):
            return field.description or ""
    return ""


def model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model in an annotation: itself, that of a tuple's rows, or that of an optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """Return the model of the table at `loc`, None where there is none."""
    annotation: object = model
    for part in loc:
        if isinstance(part, int):
            continue  # a row; `model_in` finds its model
        if _is_mapping(annotation):
            annotation = get_args(annotation)[1]
            continue
        table = model_in(annotation)
        names = {} if table is None else table.model_fields
        annotation = next(
            (field.annotation for key, field in names.items() if part == (field.alias or key)), None
        )
    return None if _is_mapping(annotation) else model_in(annotation)


def _is_mapping(annotation: object) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)
