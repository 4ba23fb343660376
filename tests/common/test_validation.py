from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from proxy.common.validation import (
    description_of,
    dotted,
    freeze,
    in_file,
    invalid,
    parse_toml,
    problems_of,
)
from proxy.errors import ConfigError, Problem

Word = Annotated[str, Field(min_length=1)]


class Row(BaseModel):
    """A row of a list."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    url: Word = Field(description="the URL of the server")
    kind: Literal["a", "b"] = Field("a", alias="class")
    port: int = Field(80, gt=0, le=65535)

    @model_validator(mode="after")
    def _check(self) -> "Row":
        if self.url == "twice" and self.port == 1:
            raise invalid("does not fit the URL", "Choose another port.", key="port")
        if self.url == "bad":
            raise invalid("is bad", "Leave it out.")
        return self


class File(BaseModel):
    """A whole file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    rows: dict[Annotated[str, Field(pattern="^[a-z]+$")], tuple[Row, ...]] = Field(
        description="the rows by name"
    )
    single: Row | None = None


def problems(text: str) -> list[Problem]:
    """Return the problems of `text`."""
    with pytest.raises(ValidationError) as raised:
        File.model_validate(freeze(parse_toml(text, "f.toml")))
    return problems_of(raised.value, File, in_file("f.toml", text), default_hint="See the guide.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("f.toml: rows", "is missing", "Set it: the rows by name.")),
        ("rows = 1", ("f.toml:1: rows", "must be a table", "It is the rows by name.")),
        ("rows = { a = 1 }", ("f.toml:1: rows.a", "must be a list", "See the guide.")),
        ("rows.a = [1]", ("f.toml:1: rows.a[0]", "must be a table", "See the guide.")),
        (
            "[[rows.a]]\nport = 1",
            ("f.toml:1: rows.a[0].url", "is missing", "Set it: the URL of the server."),
        ),
        (
            '[[rows.a]]\n\nurl = ""',
            ("f.toml:3: rows.a[0].url", "must not be empty", "It is the URL of the server."),
        ),
        (
            '[[rows.a]]\nurl = "u"\nclass = "c"',
            ("f.toml:3: rows.a[0].class", 'must be "a" or "b"', "See the guide."),
        ),
        (
            '[[rows.a]]\nurl = "u"\nport = 65536',
            ("f.toml:3: rows.a[0].port", "must be at most 65535", "See the guide."),
        ),
        (
            '[[rows.a]]\nurl = "u"\nclas = "a"',
            ("f.toml:3: rows.a[0].clas", "is not a known key", "Did you mean class?"),
        ),
        (
            '[[rows.a]]\nurll = "u"',
            ("f.toml:2: rows.a[0].urll", "is not a known key", "Did you mean url?"),
        ),
        (
            '[[rows.a]]\nurl = "u"\nxyz = 1',
            (
                "f.toml:3: rows.a[0].xyz",
                "is not a known key",
                "Remove it; known here: url, class, port.",
            ),
        ),
        (
            '[single]\nurl = "u"\nxyz = 1\n[rows]',
            (
                "f.toml:3: single.xyz",
                "is not a known key",
                "Remove it; known here: url, class, port.",
            ),
        ),
        (
            '[[rows.a]]\nurl = "twice"\nport = 1',
            ("f.toml:3: rows.a[0].port", "does not fit the URL", "Choose another port."),
        ),
        ('[[rows.a]]\nurl = "bad"', ("f.toml:1: rows.a[0]", "is bad", "Leave it out.")),
        (
            '[[rows.A]]\nurl = "u"',
            ("f.toml:1: rows.A", "String should match pattern '^[a-z]+$'", "See the guide."),
        ),
    ],
)
def test_each_error_becomes_a_problem_with_its_place(
    text: str, expected: tuple[str, str, str]
) -> None:
    """Location with line, message and hint; the names are those of the file, not of the model."""
    assert [(one.location, one.message, one.hint) for one in problems(text)] == [expected]


def test_no_message_repeats_the_refused_value() -> None:
    """A secret in the wrong place must not reach a log."""
    assert "hunter2" not in str(
        problems('[[rows.a]]\nurl = "u"\nport = "hunter2"\nclass = "hunter2"')
    )


class WithDefault(BaseModel):
    """A table with a default that depends on another key."""

    port: int = Field(gt=0)
    next_port: int = Field(default_factory=lambda fields: fields["port"] + 1)


def test_a_default_that_depends_on_a_refused_value_is_no_second_problem() -> None:
    """The refused value is the only cause."""
    with pytest.raises(ValidationError) as raised:
        WithDefault.model_validate({"port": 0})
    assert [one.location for one in problems_of(raised.value, WithDefault, dotted)] == ["port"]


@pytest.mark.parametrize(
    ("text", "location", "message"),
    [
        ("a = 1\nb = ", "f.toml:2", "is not valid TOML: invalid value"),
        ("a = 1\na = 2\n", "f.toml:2", "is not valid TOML: cannot overwrite a value"),
        ("a = [1,\n\n", "f.toml:3", "is not valid TOML: unexpected end of document"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_with_its_line(
    text: str, location: str, message: str
) -> None:
    """The parser's words follow ours, in one sentence."""
    with pytest.raises(ConfigError) as raised:
        parse_toml(text, "f.toml")
    (problem,) = raised.value.problems
    assert problem.location == location
    assert problem.message.startswith(message.partition(":")[0])


def test_a_table_is_frozen_all_the_way_down() -> None:
    """Strict models take tuples, and TOML gives lists."""
    assert freeze({"a": [1, {"b": [2]}]}) == {"a": (1, {"b": (2,)})}


def test_a_description_is_found_by_the_keys_of_the_file() -> None:
    """Row numbers, optional tables and tables by name lead to a field."""
    assert description_of(File, ("rows", "a", 0, "url")) == "the URL of the server"
    assert description_of(File, ("single", "url")) == "the URL of the server"
    assert description_of(File, ("single", "class")) == ""
    assert description_of(File, ("nothing", "url")) == ""
    assert description_of(File, ()) == ""
