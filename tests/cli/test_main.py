import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.main import VERBS, main
from tests.support.paths import ROOT


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process, which takes a tenth of the time; gives exit code,
    output and errors.
    """
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code, *capsys.readouterr()


def callgate(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line as its own process."""
    return subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_verb_with_its_summary() -> None:
    """What there is can be found without reading anything else, whole lines of it."""
    done = callgate("--help")
    assert done.returncode == 0
    for verb, summary in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(summary)}$", done.stdout, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Each verb, or each verb below it, shows a line to copy."""
    code, shown, _ = said(capsys, verb, "--help")
    assert code == 0
    below = re.findall(r"(?m)^  ([a-z][a-z-]*)  ", shown.partition("Commands:")[2])
    for words in [[verb, name] for name in below] or [[verb]]:
        code, shown, _ = said(capsys, *words, "--help")
        assert code == 0
        assert re.search(rf"callgate {' '.join(words)}\b", shown), f"{words}: no example"


def test_help_imports_none_of_the_verbs() -> None:
    """The list of verbs answers at once: what only a running gate needs is not loaded for it."""
    script = "import sys; sys.argv = ['callgate', '--help']\nfrom proxy.cli.main import main\ntry: main()\nexcept SystemExit: pass\n"
    script += "print([name for name in ('aiohttp', 'cedarpy', 'uvloop', 'jwt', 'pydantic') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_gate_loads_nothing_for_consoles() -> None:
    """What a serving process imports before it begins: rich would be 5 MB in each. Other verbs
    still find it.
    """
    code = (
        "import sys; from proxy.cli import main, serve; main.build('serve'); serve._serve_imports();"
        "print([name for name in ('rich', 'pygments', 'structlog', 'proxy.gate.pipeline') if name in sys.modules]); import rich"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "['structlog', 'proxy.gate.pipeline']\n"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["--nonsense"], ["serve", "--nonsense"], ["check", "extra"]]
)
def test_bad_usage_is_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A script can tell bad usage from an answer."""
    code, _, errors = said(capsys, *words)
    assert code == 2
    assert "Error" in errors


@pytest.mark.parametrize("verb", ["serve", "check"])
def test_a_missing_settings_file_is_2_and_says_how_to_name_one(verb: str, tmp_path: Path) -> None:
    """Nothing could be told, and the remedy is there."""
    done = callgate(verb, cwd=tmp_path)
    assert done.returncode == 2
    assert "--config" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_lists_every_problem_of_its_settings(tmp_path: Path) -> None:
    """A gate that cannot start says all of why, with place and remedy, and no traceback."""
    (tmp_path / "callgate.toml").write_text("[[listeners]]\nprt = 1\n")
    done = callgate("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        "callgate.toml:2: listeners[0].prt: is not a known key\n    Did you mean port?"
        in done.stderr
    )
    assert "callgate.toml: upstreams: no upstream is configured" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_says_when_its_port_is_taken(tmp_path: Path) -> None:
    """The commonest failure of a good configuration is one line that names address and port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "callgate.toml").write_text(
            f"""
            [[listeners]]
            port = {port}
            plain_http = true
            [local_issuer]
            directory = "issuer"
            [[upstreams]]
            name = "luigi"
            protocol = "luigi"
            url = "http://127.0.0.1:1"
            [policy]
            directory = "{ROOT / "policies"}"
            [audit]
            directory = "audit"
            [metrics]
            port = 0
            """
        )
        done = callgate("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert f"cannot serve on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr.splitlines()[-1]


def test_what_the_system_refuses_is_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk or a path that is none must neither read as the answer "no" nor show a traceback,
    whichever verb met it.
    """
    (tmp_path / "file").write_text("")
    code, shown, errors = said(capsys, "demo", "--dir", str(tmp_path / "file" / "demo"))
    assert (code, shown) == (2, "")
    assert errors == f"callgate: {tmp_path}/file/demo: Not a directory\n"


def test_the_version_is_that_of_the_package() -> None:
    """For reports: one line."""
    done = callgate("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("callgate ")
