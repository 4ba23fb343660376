import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.common.validation import model_in
from proxy.config.model import Settings
from tests.support.paths import ROOT
from tests.support.settings import MINIMAL, read, with_upstream


def test_the_minimal_settings_have_defaults_for_the_rest(tmp_path: Path) -> None:
    """What the minimal settings leave out has the documented defaults."""
    found = read(tmp_path, MINIMAL)
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
    not_yet = {"state.directory"}
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
    found = read(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        found.metrics.port = 1


def test_an_xmlrpc_upstream_has_the_usual_path(tmp_path: Path) -> None:
    """XML-RPC servers answer at /RPC2 by convention; a server may have its own at /."""
    assert read(tmp_path, with_upstream()).upstreams[1].upstream_path == "/RPC2"
    assert (
        read(tmp_path, with_upstream(upstream_path="/api/xml")).upstreams[1].upstream_path
        == "/api/xml"
    )
    assert read(tmp_path, with_upstream(upstream_path="/")).upstreams[1].upstream_path == "/"
    luigi = with_upstream(protocol="luigi", upstream_path="/")
    assert read(tmp_path, luigi).upstreams[1].upstream_path == ""


def test_keys_for_later_are_read(tmp_path: Path) -> None:
    """`public_url` has no default, and `[state]` no effect so far."""
    assert read(tmp_path, MINIMAL).public_url is None
    text = f'public_url = "https://gate.example:8443/"\n{MINIMAL}[state]\ndirectory = "state"\n'
    found = read(tmp_path, text)
    assert found.public_url == "https://gate.example:8443"
    assert found.state is not None
    assert found.state.directory == tmp_path / "state"


def test_an_upstream_can_be_a_unix_socket(tmp_path: Path) -> None:
    """A Unix socket suits a scheduler without access control of its own."""
    assert read(tmp_path, with_upstream(url="unix:/run/supervisor.sock")).upstreams[
        1
    ].socket_path == Path("/run/supervisor.sock")


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
    table = ""
    model: type[BaseModel] = Settings
    text = (ROOT / "deploy" / "callgate.toml").read_text(encoding="utf-8")
    compared = 0
    for line in text.splitlines():
        if header := re.match(r"#? ?\[+([a-z_]+)\]+", line):
            table = f"{header[1]}."
            inner = model_in(Settings.model_fields[header[1]].annotation)
            assert inner is not None
            model = inner
        elif (default := re.match(r"# ([a-z_]+) = ([^#]*)", line)) and (
            table + default[1] not in without
        ):
            expected = tomllib.loads(f"value = {default[2]}")["value"]
            found = model.model_fields[default[1]].default
            assert (list(found) if isinstance(found, tuple) else found) == expected, line
            compared += 1
    assert compared > 25
