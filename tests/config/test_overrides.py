from pathlib import Path

import pytest

from tests.support.settings import MINIMAL, only, problems, read


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    """Numbers are numbers, and text needs no quotes."""
    environ = {
        "CALLGATE__LISTENERS__0__PORT": "9443",
        "CALLGATE__LISTENERS__0__ADDRESS": "::1",
        "CALLGATE__LOG__FORMAT": "console",
    }
    found = read(tmp_path, MINIMAL, environ)
    assert (found.listeners[0].port, found.listeners[0].address, found.log.format) == (
        9443,
        "::1",
        "console",
    )


def test_a_variable_reaches_rows(tmp_path: Path) -> None:
    """Rows are counted from 0; one more than there are is a new row."""
    environ = {
        "CALLGATE__UPSTREAMS__0__URL": "http://127.0.0.1:9082",
        "CALLGATE__UPSTREAMS__1__NAME": "b",
        "CALLGATE__UPSTREAMS__1__PROTOCOL": "luigi",
        "CALLGATE__UPSTREAMS__1__URL": "http://127.0.0.1:9083",
        "CALLGATE__UPSTREAMS__1__PATH_PREFIX": "/b",
    }
    found = read(tmp_path, MINIMAL, environ)
    assert [upstream.url for upstream in found.upstreams] == [
        "http://127.0.0.1:9082",
        "http://127.0.0.1:9083",
    ]


def test_a_bad_value_is_named_by_its_variable(tmp_path: Path) -> None:
    """The value is not in the file, so the location is the variable."""
    assert (
        only(tmp_path, MINIMAL, {"CALLGATE__LISTENERS__0__PORT": "high"}).location
        == "environment: CALLGATE__LISTENERS__0__PORT"
    )


@pytest.mark.parametrize(
    "variable",
    [
        "CALLGATE__",
        "CALLGATE__LISTN__PORT",
        "CALLGATE__UPSTREAMS__7__URL",
        "CALLGATE__UPSTREAMS__URL",
        "CALLGATE__LOG____X",
    ],
)
def test_a_variable_that_names_nothing_is_an_error(tmp_path: Path, variable: str) -> None:
    """A misspelt override is refused, as a misspelt key of the file is."""
    assert [problem.location for problem in problems(tmp_path, MINIMAL, {variable: "1"})] == [
        f"environment: {variable}"
    ]


def test_a_secret_in_a_variable_is_a_literal_too(tmp_path: Path) -> None:
    """A secret is named by { env = ... }, wherever the value comes from."""
    problem = only(tmp_path, MINIMAL, {"CALLGATE__UPSTREAMS__0__BASIC_AUTH": "user:hunter2"})
    assert problem.location == "environment: CALLGATE__UPSTREAMS__0__BASIC_AUTH"
    assert "hunter2" not in repr(problem)


def test_other_variables_are_left_alone(tmp_path: Path) -> None:
    """Only names with the prefix and two underscores are overrides."""
    assert read(tmp_path, MINIMAL, {"CALLGATE_CONFIG": "x", "PORT": "y"}).log.level == "info"
