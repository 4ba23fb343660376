from pathlib import Path

import pytest
import typer

from proxy.cli.catalog.asking import BASIC_AUTH, make_server, read_names, show_server


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost:9000", "http://localhost:9000/RPC2"), ("https://h.example/", "https://h.example/RPC2"),
        ("http://localhost:9000/cobbler_api", "http://localhost:9000/cobbler_api"), ("unix:/run/s.sock", "unix:/run/s.sock"),
        ("http://[::1]:9000/", "http://[::1]:9000/RPC2"),
    ],
)  # fmt: skip
def test_a_server_is_named_as_in_the_settings(url: str, shown: str) -> None:
    """With the path that Callgate itself would use unless another is given."""
    assert show_server(make_server(url, None, None)) == shown


@pytest.mark.parametrize(
    "url", ["http://gate:hunter2@localhost:9000", "ftp://x", "unix:s.sock", "localhost:9000", "http://h/?a=b", "http://h h/"]
)  # fmt: skip
def test_another_url_is_refused_and_not_repeated(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may hold a password: what is printed ends up in logs."""
    with pytest.raises(typer.Exit) as caught:
        make_server(url, None, None)
    assert caught.value.exit_code == 2
    assert "hunter2" not in said(capsys)


def test_a_password_comes_from_a_private_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that others can read is refused, and so is one without a password."""
    file = tmp_path / "password"
    file.write_text("gate:hunter2\n")
    file.chmod(0o600)
    assert make_server("http://h", file, None).basic_auth == "gate:hunter2"
    file.chmod(0o644)
    with pytest.raises(typer.Exit):
        make_server("http://h", file, None)
    assert f"Run: chmod 600 {file}." in said(capsys)
    monkeypatch.setenv(BASIC_AUTH, "gate:swordfish")
    assert make_server("http://h", None, None).basic_auth == "gate:swordfish"
    monkeypatch.setenv(BASIC_AUTH, "swordfish")
    with pytest.raises(typer.Exit):
        make_server("http://h", None, None)
    assert "swordfish" not in said(capsys)


def test_names_are_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One a line, with blank lines and comments; a file that is none is refused in one line."""
    file = tmp_path / "names"
    file.write_text("b  # the second\n\n# nothing\na\n")
    assert read_names(file).names == ("a", "b")
    for content in (b"\xff\xfe", b"x" * 2_000_000):
        file.write_bytes(content)
        with pytest.raises(typer.Exit):
            read_names(file)
        assert str(file) in said(capsys)
    with pytest.raises(typer.Exit):
        read_names(tmp_path / "missing")
    assert "No such file" in said(capsys)
