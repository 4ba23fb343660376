import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.common.validation import model_in
from proxy.config.loading import load_settings
from proxy.config.model import Settings
from proxy.errors import ConfigError, Problem
from tests.support.paths import ROOT

LEAST = """\
[[listeners]]
plain_http = true
[local_issuer]
directory = "issuer"
[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:8082"
[policy]
directory = "policies"
[audit]
directory = "audit"
"""


def write(directory: Path, text: str) -> Path:
    """Write the settings, beside an empty directory of policies."""
    (directory / "policies").mkdir(exist_ok=True)
    path = directory / "callgate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Load settings that are expected to be good."""
    return load_settings(write(directory, text), environ or {})


def problems(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Load settings that are expected to be bad."""
    with pytest.raises(ConfigError) as caught:
        read(directory, text, environ)
    return list(caught.value.problems)


def only(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Problem:
    """Load settings that are expected to have one problem."""
    (problem,) = problems(directory, text, environ)
    return problem


def place(problem: Problem) -> str:
    """Return the key that a problem of the file is about, without the line."""
    found = re.fullmatch(r"callgate\.toml(?::\d+)?: (.*)", problem.location)
    assert found, problem
    return found[1]


def secret_file(directory: Path, text: str = "s3cr3t-value\n", mode: int = 0o600) -> Path:
    """Write a file with a secret."""
    path = directory / "secret"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_the_least_settings_have_defaults_for_all_the_rest(tmp_path: Path) -> None:
    """Six lines are enough, and what they leave out has the documented defaults."""
    found = read(tmp_path, LEAST)
    assert [(each.address, each.port) for each in found.listeners] == [("127.0.0.1", 8443)]
    assert (
        found.limits.body_bytes,
        found.limits.header_bytes,
        found.limits.connections_per_address,
    ) == (16 << 20, 65536, 512)
    assert (found.metrics.address, found.metrics.port) == ("127.0.0.1", 9464)
    assert found.local_issuer is not None
    assert found.local_issuer.issuer == "https://callgate.local/issuer"
    (upstream,) = found.upstreams
    assert (upstream.path_prefix, upstream.catalog, upstream.upstream_path) == ("/", "luigi", "")
    assert found.file == tmp_path / "callgate.toml"


def test_every_setting_is_read_somewhere() -> None:
    """A key that is accepted and has no effect would mislead its reader."""
    not_yet = {"state.directory", "public_url"}
    declared = {"model.py", "partial.py", "renamed_keys.py"}
    readers = [
        path
        for path in sorted((ROOT / "proxy").rglob("*.py"))
        if path.parent.name != "config" or path.name not in declared
    ]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in readers)
    keys = set()
    for table, field in Settings.model_fields.items():
        model = model_in(field.annotation)
        keys |= {table} if model is None else {f"{table}.{key}" for key in model.model_fields}
    assert len(keys) > 40
    unread = {key for key in keys if not re.search(rf"\.{key.rpartition('.')[2]}\b", sources)}
    assert unread - not_yet == set()


def test_settings_cannot_be_changed_after_they_were_read(tmp_path: Path) -> None:
    """What was checked is what is used."""
    found = read(tmp_path, LEAST)
    with pytest.raises(ValueError, match="frozen"):
        found.metrics.port = 1  # type: ignore[misc]  # that this is an error is the point


def test_relative_paths_start_at_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file means the same wherever the gate is started from."""
    path = write(tmp_path, LEAST)
    monkeypatch.chdir("/")
    found = load_settings(path, {})
    assert found.policy.directory == tmp_path / "policies"
    assert found.audit.directory == tmp_path / "audit"


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
        problem = only(tmp_path, LEAST.replace(right, wrong))
        assert problem.message == "is not a known key"
        name = re.search(r"\w+", right)
        assert name
        assert problem.hint == f"Did you mean {name[0]}?"


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
    """Each kind of value says where it stands and what it has to be."""
    table = line.partition("\n")[0].strip("[]")
    rest = re.sub(rf"(?m)^\[+{table}\]+\n(.*\n)*?(?=\[|\Z)", "", LEAST)
    if table == "listeners":
        line += "\nplain_http = true"
    found = [problem for problem in problems(tmp_path, f"{line}\n{rest}") if place(problem) == key]
    assert found, "the key is not named"
    assert says in found[0].message


def test_an_unknown_key_is_an_error_with_the_likely_meaning(tmp_path: Path) -> None:
    """A misspelt key would otherwise leave its default in force, unnoticed."""
    problem = only(tmp_path, LEAST + "[limits]\nbody_byte = 5\n")
    assert problem.location == "callgate.toml:14: limits.body_byte"
    assert problem.hint == "Did you mean body_bytes?"


def test_an_unknown_key_in_a_row_is_named_with_the_row(tmp_path: Path) -> None:
    """In a list of upstreams the place has to say which."""
    problem = only(
        tmp_path, LEAST.replace('protocol = "luigi"', 'protocol = "luigi"\npath_prefx = "/a"')
    )
    assert problem.location == "callgate.toml:8: upstreams[0].path_prefx"
    assert "path_prefix" in problem.hint


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    """A syntax error ends the reading, so its line is all that is known."""
    problem = only(tmp_path, "[log]\nlevel = \n")
    assert problem.location == "callgate.toml:2"
    assert problem.message == "is not valid TOML: invalid value"


def test_a_file_that_is_not_text_is_named_with_its_line(tmp_path: Path) -> None:
    """TOML is UTF-8; a Latin-1 file is reported, not guessed at."""
    path = tmp_path / "callgate.toml"
    path.write_bytes(b"[log]\n# \xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path, {})
    assert caught.value.problems[0].location == "callgate.toml:2"


def test_a_missing_settings_file_says_how_to_name_one(tmp_path: Path) -> None:
    """The first thing that goes wrong for a newcomer has its remedy."""
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "absent.toml", {})
    assert "--config" in caught.value.problems[0].hint


class TestSecrets:
    """A secret is named, never written down; and what is read is never shown."""

    def with_authorization(self, value: str) -> str:
        """Settings whose upstream has a password of its own."""
        return LEAST.replace('protocol = "luigi"', f'protocol = "luigi"\nbasic_auth = {value}')

    def test_a_literal_is_refused_and_not_repeated(self, tmp_path: Path) -> None:
        """Settings end up in version control; the refusal must not carry the secret on into a log."""
        problem = only(tmp_path, self.with_authorization('"user:hunter2"'))
        assert "literal secret" in problem.message
        assert "hunter2" not in repr(problem)

    def test_a_url_with_a_password_is_refused_and_not_repeated(self, tmp_path: Path) -> None:
        """User info in a URL is a literal secret too."""
        problem = only(tmp_path, LEAST.replace("http://127", "http://user:hunter2@127"))
        assert problem.location.endswith("upstreams[0].url")
        assert "hunter2" not in repr(problem)

    def test_a_secret_is_read_from_its_file_without_the_line_end(self, tmp_path: Path) -> None:
        """Editors and echo end files with a line end that is no part of a password."""
        path = secret_file(tmp_path)
        found = (
            read(tmp_path, self.with_authorization('{ file = "secret" }')).upstreams[0].basic_auth
        )
        assert found is not None
        assert (found.reveal(), found.file) == ("s3cr3t-value", path)

    def test_a_secret_is_read_from_the_environment(self, tmp_path: Path) -> None:
        """The usual way in containers."""
        found = (
            read(tmp_path, self.with_authorization('{ env = "UPSTREAM" }'), {"UPSTREAM": "u:p"})
            .upstreams[0]
            .basic_auth
        )
        assert found is not None
        assert (found.reveal(), found.file) == ("u:p", None)

    def test_settings_with_a_secret_can_be_printed(self, tmp_path: Path) -> None:
        """Whatever prints the settings, a log or a traceback, the secret is not in it."""
        secret_file(tmp_path)
        found = read(tmp_path, self.with_authorization('{ file = "secret" }'))
        assert "s3cr3t-value" not in f"{found!r}{found}{found.upstreams[0].basic_auth}"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
    def test_a_file_open_to_others_is_refused(self, tmp_path: Path, mode: int) -> None:
        """A key that others can read is no secret; the remedy is the command to run."""
        path = secret_file(tmp_path, mode=mode)
        problem = only(tmp_path, self.with_authorization('{ file = "secret" }'))
        assert f"{mode:04o}" in problem.message
        assert problem.hint == f"Run: chmod 600 {path}"

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            ('{ env = "UNSET" }', "UNSET is not set"),
            ('{ file = "absent" }', "does not exist"),
            ('{ file = "policies" }', "not a file"),
            ('{ file = "secret", env = "X" }', "exactly one"),
            ("{ }", "exactly one"),
            ('{ path = "secret" }', "exactly one"),
            ("{ file = 3 }", "must be text"),
            ("3", "literal secret"),
        ],
    )
    def test_a_secret_that_cannot_be_had_is_a_problem(
        self, tmp_path: Path, value: str, says: str
    ) -> None:
        """Each way of naming a secret wrongly is told apart."""
        secret_file(tmp_path)
        assert says in only(tmp_path, self.with_authorization(value)).message

    def test_an_empty_secret_is_refused(self, tmp_path: Path) -> None:
        """An empty password would be sent as if it were one."""
        secret_file(tmp_path, "\n")
        assert "is empty" in only(tmp_path, self.with_authorization('{ file = "secret" }')).message


class TestTables:
    """What no single key can tell."""

    def test_plain_http_never_leaves_the_machine(self, tmp_path: Path) -> None:
        """Tokens over plain HTTP on a network would be anybody's."""
        problem = only(tmp_path, LEAST.replace("plain_http", 'address = "0.0.0.0"\nplain_http'))
        assert place(problem) == "listeners[0].plain_http"

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
    def test_plain_http_is_allowed_on_loopback(self, tmp_path: Path, address: str) -> None:
        """For a sidecar, or a TLS terminator on the same machine."""
        assert (
            read(tmp_path, LEAST.replace("plain_http", f'address = "{address}"\nplain_http'))
            .listeners[0]
            .plain_http
        )

    def test_without_tls_plain_http_has_to_be_asked_for(self, tmp_path: Path) -> None:
        """Without a certificate, plain HTTP is not the default."""
        problem = only(tmp_path, LEAST.replace("plain_http = true", ""))
        assert (place(problem), problem.message) == (
            "listeners[0]",
            "certificate and key are missing",
        )

    @pytest.mark.parametrize(
        ("given", "missing"),
        [("certificate", "key is missing"), ("key", "certificate is missing")],
    )
    def test_half_of_a_pair_is_refused(self, tmp_path: Path, given: str, missing: str) -> None:
        """A listener needs its certificate and its key."""
        path = secret_file(tmp_path)
        value = f'"{path}"' if given == "certificate" else f'{{ file = "{path}" }}'
        text = LEAST.replace("plain_http = true", f"{given} = {value}")
        assert only(tmp_path, text).message == missing

    def test_tls_and_plain_http_exclude_each_other(self, tmp_path: Path) -> None:
        """Which of the two was meant is not guessed."""
        path = secret_file(tmp_path)
        pair = f'certificate = "{path}"\nkey = {{ file = "{path}" }}\n'
        problem = only(tmp_path, LEAST.replace("plain_http = true\n", f"plain_http = true\n{pair}"))
        assert place(problem) == "listeners[0].plain_http"
        assert problem.message == "cannot be combined with certificate and key"

    @pytest.mark.parametrize(
        ("first", "second", "clash"),
        [
            ("127.0.0.1", "127.0.0.1", True),
            ("127.0.0.1", "localhost", True),
            ("::1", "::", True),
            ("127.0.0.1", "::", True),
            ("127.0.0.1", "0.0.0.0", True),
            ("127.0.0.1", "127.0.0.2", False),
            ("127.0.0.1", "::1", False),
            ("::1", "0.0.0.0", False),
        ],
    )
    def test_two_listeners_never_share_a_port_of_an_address(
        self, tmp_path: Path, first: str, second: str, clash: bool
    ) -> None:
        """The second bind would fail, or take clients of the first."""
        path = secret_file(tmp_path)
        row = f'certificate = "{path}"\nkey = {{ file = "{path}" }}\n'
        text = LEAST.replace("plain_http = true\n", f'address = "{first}"\n{row}')
        text += f'[[listeners]]\naddress = "{second}"\n{row}'
        if not clash:
            assert len(read(tmp_path, text).listeners) == 2
            return
        problem = only(tmp_path, text)
        assert place(problem) == "listeners[1].port"
        assert problem.message == "listeners[0] has this port already"

    @pytest.mark.parametrize(
        ("listener", "processes", "metrics", "message", "hint"),
        [
            ("port = 9464", 1, "", "is the port of listeners[0]", "9465"),
            ("port = 9466", 3, "", "9464 to 9466, and 9466 is the port", "9467"),
            (
                "port = 65535",
                2,
                "[metrics]\nport = 65534",
                "65534 to 65535, and 65535 is the port",
                "65533",
            ),
            (
                "port = 9000",
                4,
                "[metrics]\nport = 65533",
                "65533 to 65536, and there are none beyond 65535",
                "65532 or less",
            ),
            (
                'port = 9464\naddress = "localhost"',
                1,
                '[metrics]\naddress = "::1"',
                "is the port of listeners[0]",
                "9465",
            ),
        ],
    )
    def test_the_ports_of_the_metrics_are_ports_of_their_own(
        self,
        tmp_path: Path,
        listener: str,
        processes: int,
        metrics: str,
        message: str,
        hint: str,
    ) -> None:
        """Each process has one, counted up from the first; one that is taken or is none would go
        without numbers, or without clients.
        """
        text = LEAST.replace("[[listeners]]\n", f"[[listeners]]\n{listener}\n") + metrics
        problem = only(tmp_path, f"processes = {processes}\n{text}")
        assert place(problem) == "metrics.port"
        assert message in problem.message
        assert hint in problem.hint

    @pytest.mark.parametrize(
        ("listener", "processes", "metrics"),
        [
            ("port = 9463", 64, ""),
            ("port = 9466", 2, ""),
            ("port = 9464", 1, "[metrics]\nport = 0"),
            ('port = 9464\naddress = "127.0.0.2"', 1, ""),
            ("", 4, "[metrics]\nport = 65532"),
        ],
    )
    def test_ports_of_the_metrics_next_to_those_of_listeners_are_fine(
        self, tmp_path: Path, listener: str, processes: int, metrics: str
    ) -> None:
        """The nearest ports that do not meet, other addresses, and no metrics at all."""
        text = LEAST.replace("[[listeners]]\n", f"[[listeners]]\n{listener}\n") + metrics
        assert read(tmp_path, f"processes = {processes}\n{text}").processes == processes

    def test_metrics_on_the_port_of_a_listener_for_every_address(self, tmp_path: Path) -> None:
        """Every address has the loopback ports too."""
        text = LEAST.replace("[[listeners]]\n", '[[listeners]]\nport = 9464\naddress = "0.0.0.0"\n')
        assert "metrics.port" in [place(problem) for problem in problems(tmp_path, text)]

    def test_somebody_has_to_be_able_to_sign_in(self, tmp_path: Path) -> None:
        """No issuer means nobody, and a gate for nobody is a mistake."""
        assert (
            place(only(tmp_path, LEAST.replace('[local_issuer]\ndirectory = "issuer"', "")))
            == "issuers"
        )

    def test_there_has_to_be_something_behind_the_gate(self, tmp_path: Path) -> None:
        """No upstream is a mistake too."""
        assert (
            place(only(tmp_path, re.sub(r"\[\[upstreams\]\](\n[^\[].*)*", "", LEAST)))
            == "upstreams"
        )

    @pytest.mark.parametrize(
        ("issuer", "key"),
        [
            ('name = "a"\nissuer = "https://one.example"', "issuers[1].name"),
            ('name = "b"\nissuer = "https://a.example"', "issuers[1].issuer"),
            ('name = "local"\nissuer = "https://b.example"', "issuers[1].name"),
            ('name = "b"\nissuer = "https://callgate.local/issuer"', "issuers[1].issuer"),
        ],
    )
    def test_two_issuers_are_told_apart_by_name_and_url(
        self, tmp_path: Path, issuer: str, key: str
    ) -> None:
        """A principal is issuer and subject: two issuers with one name would be able to speak for
        each other's users.
        """
        rows = f'[[issuers]]\nname = "a"\nissuer = "https://a.example"\naudiences = ["x"]\n[[issuers]]\n{issuer}\naudiences = ["x"]\n'
        assert place(only(tmp_path, LEAST + rows)) == key

    @pytest.mark.parametrize("name", ["Okta", "", "-a", "a_b", "a|b", "a" * 33, "a b", "ä", "a\\n"])
    def test_names_are_plain(self, tmp_path: Path, name: str) -> None:
        """Names stand in principals, policies and records, with | between the parts."""
        rows = f'[[issuers]]\nname = "{name}"\nissuer = "https://a.example"\naudiences = ["x"]\n'
        assert place(only(tmp_path, LEAST + rows)) == "issuers[0].name"

    def upstream(self, **keys: str) -> str:
        """The least settings with a second upstream."""
        row = {
            "name": "second",
            "protocol": "xmlrpc",
            "url": "http://127.0.0.1:9001",
            "path_prefix": "/second",
            "catalog": "supervisor",
            **keys,
        }
        return (
            LEAST
            + "[[upstreams]]\n"
            + "".join(f'{key} = "{value}"\n' for key, value in row.items() if value)
        )

    def test_an_xmlrpc_upstream_has_the_usual_path(self, tmp_path: Path) -> None:
        """XML-RPC servers answer at /RPC2 unless told otherwise."""
        assert read(tmp_path, self.upstream()).upstreams[1].upstream_path == "/RPC2"
        assert (
            read(tmp_path, self.upstream(upstream_path="/api/xml")).upstreams[1].upstream_path
            == "/api/xml"
        )

    def test_an_xmlrpc_upstream_names_its_catalog(self, tmp_path: Path) -> None:
        """There is no catalog that fits every XML-RPC server."""
        assert place(only(tmp_path, self.upstream(catalog=""))) == "upstreams[1].catalog"

    @pytest.mark.parametrize(
        "prefix",
        [
            "second",
            "/second/",
            "//second",
            "/a//b",
            "/..",
            "/a/../b",
            "/%41",
            "/a b",
            "/a?b",
            "/a#b",
            "/-/x",
            "/é",
        ],
    )
    def test_a_prefix_is_one_path_in_one_spelling(self, tmp_path: Path, prefix: str) -> None:
        """The raw path is compared with it, so it must not have a second spelling; and /-/ is the
        gate's own.
        """
        assert (
            place(only(tmp_path, self.upstream(path_prefix=prefix))) == "upstreams[1].path_prefix"
        )

    def test_the_operators_log_is_nobody_elses(self, tmp_path: Path) -> None:
        """`callgate audit archive` records what it does in a log of its own; a gate of that name
        would fight it for the lock.
        """
        assert (
            place(
                only(
                    tmp_path,
                    LEAST.replace('directory = "audit"', 'directory = "audit"\nname = "operator"'),
                )
            )
            == "audit.name"
        )

    @pytest.mark.parametrize("prefix", ["/api", "/static", "/history/x", "/RPC2"])
    def test_a_prefix_does_not_hide_a_part_of_another_upstream(
        self, tmp_path: Path, prefix: str
    ) -> None:
        """A second upstream at /api would take the calls of the luigi at /."""
        assert "would hide" in only(tmp_path, self.upstream(path_prefix=prefix)).message

    @pytest.mark.parametrize(
        "url",
        [
            "127.0.0.1:9001",
            "ftp://127.0.0.1",
            "http://",
            "http:///path",
            "http://a b",
            "http://h:99999",
            "http://h:x",
            "http://h:0",
            "http://h/path",
            "http://h?q",
            "http://h#f",
            "http://h\\\\x",
            "http://é",
            "unix:relative.sock",
            "http://[::1",
        ],
    )
    def test_an_upstream_is_one_place_in_one_spelling(self, tmp_path: Path, url: str) -> None:
        """A URL that two parsers could read differently is refused."""
        assert place(only(tmp_path, self.upstream(url=url))) == "upstreams[1].url"

    def test_an_upstream_can_be_a_unix_socket(self, tmp_path: Path) -> None:
        """The best place for a scheduler without access control of its own."""
        assert read(tmp_path, self.upstream(url="unix:/run/supervisor.sock")).upstreams[
            1
        ].socket_path == Path("/run/supervisor.sock")

    def test_a_client_certificate_comes_with_its_key_and_https(self, tmp_path: Path) -> None:
        """Half of a pair, or a pair on plain HTTP, would silently do nothing."""
        secret_file(tmp_path)
        found = problems(tmp_path, self.upstream(client_certificate="secret"))
        assert [place(problem) for problem in found] == [
            "upstreams[1].client_certificate",
            "upstreams[1].url",
        ]


class TestEnvironment:
    """``CALLGATE__TABLE__KEY`` overrides a key."""

    def test_it_overrides_the_file(self, tmp_path: Path) -> None:
        """Numbers are numbers, and text needs no quotes."""
        environ = {
            "CALLGATE__LISTENERS__0__PORT": "9443",
            "CALLGATE__LISTENERS__0__ADDRESS": "::1",
            "CALLGATE__LOG__FORMAT": "console",
        }
        found = read(tmp_path, LEAST, environ)
        assert (found.listeners[0].port, found.listeners[0].address, found.log.format) == (
            9443,
            "::1",
            "console",
        )

    def test_it_reaches_rows(self, tmp_path: Path) -> None:
        """Rows are counted from 0; one more than there are is a new row."""
        environ = {
            "CALLGATE__UPSTREAMS__0__URL": "http://127.0.0.1:9082",
            "CALLGATE__UPSTREAMS__1__NAME": "b",
            "CALLGATE__UPSTREAMS__1__PROTOCOL": "luigi",
            "CALLGATE__UPSTREAMS__1__URL": "http://127.0.0.1:9083",
            "CALLGATE__UPSTREAMS__1__PATH_PREFIX": "/b",
        }
        found = read(tmp_path, LEAST, environ)
        assert [upstream.url for upstream in found.upstreams] == [
            "http://127.0.0.1:9082",
            "http://127.0.0.1:9083",
        ]

    def test_a_bad_value_is_named_by_its_variable(self, tmp_path: Path) -> None:
        """Whoever set the variable has to look there, not into the file."""
        assert (
            only(tmp_path, LEAST, {"CALLGATE__LISTENERS__0__PORT": "high"}).location
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
    def test_a_variable_that_names_nothing_is_an_error(self, tmp_path: Path, variable: str) -> None:
        """As with keys of the file: a misspelt override must not be ignored."""
        assert [problem.location for problem in problems(tmp_path, LEAST, {variable: "1"})] == [
            f"environment: {variable}"
        ]

    def test_a_secret_in_a_variable_is_a_literal_too(self, tmp_path: Path) -> None:
        """The rule holds wherever the value comes from: { env = … } is the way."""
        problem = only(tmp_path, LEAST, {"CALLGATE__UPSTREAMS__0__BASIC_AUTH": "user:hunter2"})
        assert problem.location == "environment: CALLGATE__UPSTREAMS__0__BASIC_AUTH"
        assert "hunter2" not in repr(problem)

    def test_other_variables_are_left_alone(self, tmp_path: Path) -> None:
        """Only the prefix with two underscores is ours to complain about."""
        assert read(tmp_path, LEAST, {"CALLGATE_CONFIG": "x", "PORT": "y"}).log.level == "info"


TOML = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*Settings.model_fields, "name", "url", "key", "port", "x"])


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
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
    """Whatever TOML says, the answer is a list of problems with a place each, and never another
    exception.
    """
    monkeypatch.setattr(tomllib, "loads", lambda _text: tree)
    for problem in problems(tmp_path, ""):
        assert problem.location.startswith("callgate.toml: ")
        assert problem.message
        assert problem.hint


def test_the_example_shows_every_key() -> None:
    """deploy/callgate.toml is the reference of the settings: complete, and without other keys."""
    text = (ROOT / "deploy" / "callgate.toml").read_text(encoding="utf-8")
    shown = tomllib.loads(re.sub(r"(?m)^# (?=\[[a-z]|[a-z_]+ = )", "", text))
    assert set(shown) == set(Settings.model_fields)
    for name, table in Settings.model_fields.items():
        model = model_in(table.annotation)
        if model is not None:
            rows = shown[name] if isinstance(shown[name], list) else [shown[name]]
            assert {key for row in rows for key in row} == set(model.model_fields), name


def test_the_values_commented_out_in_the_example_are_the_defaults() -> None:
    """A reference that shows other defaults than the code has is worse than none."""
    # Defaults that depend on the protocol have tests of their own, and some keys have none.
    without = {
        "public_url",
        "upstreams.upstream_path",
        "upstreams.catalog",
        "state.directory",
        "audit.signing_key",
    }
    table, model = "", Settings
    text = (ROOT / "deploy" / "callgate.toml").read_text(encoding="utf-8")
    compared = 0
    for line in text.splitlines():
        if header := re.match(r"#? ?\[+([a-z_]+)\]+", line):
            table = f"{header[1]}."
            model = model_in(Settings.model_fields[header[1]].annotation)
        elif (default := re.match(r"# ([a-z_]+) = ([^#]*)", line)) and (
            table + default[1] not in without
        ):
            expected = tomllib.loads(f"value = {default[2]}")["value"]
            found = model.model_fields[default[1]].default
            assert (list(found) if isinstance(found, tuple) else found) == expected, line
            compared += 1
    assert compared > 25
