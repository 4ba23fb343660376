import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.loading import load_settings
from proxy.config.model import Settings
from proxy.errors import ConfigError
from tests.support.amount import examples
from tests.support.settings import MINIMAL, only, place, problems


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Tables, rows, files, clashes between rows and unknown keys are found in one reading."""
    found = problems(
        tmp_path,
        """
        [[listeners]]
        port = "8443"
        certificate = "absent.crt"
        key = { file = "absent.key" }
        [[issuers]]
        name = "okta"
        issuer = "http://acme.okta.com"
        audiences = ["x"]
        [[upstreams]]
        name = "luigi"
        protocol = "luigi"
        url = "http://127.0.0.1:8082"
        [[upstreams]]
        name = "luigi"
        protocol = "luigi"
        url = "http://127.0.0.1:8083"
        [policy]
        directory = "absent"
        [elsewhere]
        key = 1
        """,
    )
    assert [problem.location for problem in found] == [
        "callgate.toml:20: elsewhere",
        "callgate.toml:3: listeners[0].port",
        "callgate.toml:4: listeners[0].certificate",
        "callgate.toml:5: listeners[0].key",
        "callgate.toml:8: issuers[0].issuer",
        "callgate.toml:19: policy.directory",
        "callgate.toml: audit.directory",
        "callgate.toml:15: upstreams[1].name",
        "callgate.toml:14: upstreams[1].path_prefix",
    ]
    assert all(problem.hint for problem in found)


def test_a_misspelt_key_is_one_problem(tmp_path: Path) -> None:
    """The key that it stands for is missing because of that, which is not a second cause."""
    for right, wrong in [
        ("[policy]", "[polcy]"),
        ("[[upstreams]]", "[[upstream]]"),
        ("[[listeners]]", "[[listener]]"),
        ('directory = "audit"', 'directry = "audit"'),
        ("protocol", "protocl"),
    ]:
        problem = only(tmp_path, MINIMAL.replace(right, wrong))
        assert problem.message == "is not a known key"
        name = re.search(r"\w+", right)
        assert name
        assert problem.hint == f"Did you mean {name[0]}?"


def test_a_misspelt_key_hides_no_problem_of_the_right_one(tmp_path: Path) -> None:
    """Both are in the file, and both are wrong."""
    found = problems(tmp_path, MINIMAL + "[limits]\nbody_byte = 1\nbody_bytes = 1\n")
    assert [problem.location for problem in found] == [
        "callgate.toml:14: limits.body_byte",
        "callgate.toml:15: limits.body_bytes",
    ]


@pytest.mark.parametrize(
    ("line", "key", "says"),
    [
        ("[[listeners]]\nport = 0", "listeners[0].port", "at least 1"),
        ("[[listeners]]\nport = 65536", "listeners[0].port", "at most 65535"),
        ("[[listeners]]\nport = true", "listeners[0].port", "whole number"),
        ('[[listeners]]\naddress = "gate.example"', "listeners[0].address", "not an IP address"),
        ("[limits]\nidle_seconds = 0", "limits.idle_seconds", "more than 0"),
        ("[limits]\nidle_seconds = nan", "limits.idle_seconds", ""),
        ("[limits]\nidle_seconds = inf", "limits.idle_seconds", ""),
        ('[metrics]\naddress = "0.0.0.0"', "metrics.address", "loopback"),
        ('[log]\nlevel = "loud"', "log.level", '"debug", "info"'),
        ("[audit]\ndirectory = 3", "audit.directory", "path"),
        ('[audit]\ndirectory = "callgate.toml"', "audit.directory", "not a directory"),
        ("log = 3", "log", "must be a table"),
        ("[issuers]\nname = 1", "issuers", "must be a list"),
        ("[[limits]]\nmax_in_flight = 1", "limits", "must be a table"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(tmp_path: Path, line: str, key: str, says: str) -> None:
    """The problem says what the kind of value has to be."""
    table = line.partition("\n")[0].strip("[]")
    rest = re.sub(rf"(?m)^\[+{table}\]+\n(.*\n)*?(?=\[|\Z)", "", MINIMAL)
    if table == "listeners":
        line += "\nplain_http = true"
    found = [problem for problem in problems(tmp_path, f"{line}\n{rest}") if place(problem) == key]
    assert found, "the key is not named"
    assert says in found[0].message


def test_an_unknown_key_is_an_error_with_the_likely_meaning(tmp_path: Path) -> None:
    """A misspelt key would otherwise leave its default in force, unnoticed."""
    problem = only(tmp_path, MINIMAL + "[limits]\nbody_byte = 5\n")
    assert problem.location == "callgate.toml:14: limits.body_byte"
    assert problem.hint == "Did you mean body_bytes?"


def test_an_unknown_key_in_a_row_is_named_with_the_row(tmp_path: Path) -> None:
    """In a list of upstreams the location has the number of the row."""
    problem = only(
        tmp_path, MINIMAL.replace('protocol = "luigi"', 'protocol = "luigi"\npath_prefx = "/a"')
    )
    assert problem.location == "callgate.toml:8: upstreams[0].path_prefx"
    assert "path_prefix" in problem.hint


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    """A syntax error ends the reading, so its line is all that is known."""
    problem = only(tmp_path, "[log]\nlevel = \n")
    assert problem.location == "callgate.toml:2"
    assert problem.message == "is not valid TOML: invalid value"


def test_a_file_that_is_not_text_is_named_with_its_line(tmp_path: Path) -> None:
    """TOML is UTF-8; a Latin-1 file is refused."""
    path = tmp_path / "callgate.toml"
    path.write_bytes(b"[log]\n# \xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path, {})
    assert caught.value.problems[0].location == "callgate.toml:2"


def test_a_missing_settings_file_says_how_to_name_one(tmp_path: Path) -> None:
    """The hint names the option."""
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "absent.toml", {})
    assert "--config" in caught.value.problems[0].hint


TOML = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


KEYS = st.sampled_from([*Settings.model_fields, "name", "url", "key", "port", "x"])


@settings(
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(
    tree=st.dictionaries(
        KEYS,
        st.one_of(
            TOML, st.dictionaries(KEYS, TOML), st.lists(st.dictionaries(KEYS, TOML), max_size=2)
        ),
        max_size=6,
    )
)
def test_any_tree_of_values_gives_settings_or_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: dict[str, object]
) -> None:
    """Every tree of TOML values gives a list of problems, and never another exception."""
    monkeypatch.setattr(tomllib, "loads", lambda _text: tree)
    for problem in problems(tmp_path, ""):
        assert problem.location.startswith("callgate.toml: ")
        assert problem.message
        assert problem.hint
