"""The files an operator copies agree with the code."""

import re
import subprocess
from pathlib import Path

import pytest

from proxy.cli.main import VERBS
from proxy.config.model import Settings
from proxy.runtime import process as app
from proxy.telemetry import metrics
from tests.support.documents import DOCUMENTS, FILES
from tests.support.paths import ROOT

pytestmark = pytest.mark.interpreted  # read the sources and files of the checkout

DEPLOY = ROOT / "deploy"
TEXTS = [*DOCUMENTS, *FILES]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_verbs_that_exist_are_named(path: Path) -> None:
    """A verb that does not exist would fail when it is needed most."""
    for verb in re.findall(
        r"(?:`|bin/)callgate ([a-z]+)\b", path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert verb in VERBS, verb


def test_the_guide_names_metrics_that_exist() -> None:
    """An alert on a metric that is not exported never fires."""
    sources = "".join(
        Path(module.__file__).read_text(encoding="utf-8")
        for module in (app, metrics)
        if module.__file__
    )
    named = set(
        re.findall(
            r"callgate_[a-z_]+", (DEPLOY / "guide" / "operate.md").read_text(encoding="utf-8")
        )
    )
    assert len(named) >= 4
    for name in named:
        # the exporter adds it to the names of counters
        assert f'"{name.removesuffix("_total")}"' in sources, name


def test_the_documents_name_settings_that_exist() -> None:
    """`limits.drain_seconds` and the like are keys of the settings."""
    for path in TEXTS:
        for table, key in re.findall(r"`([a-z_]+)\.([a-z_]+)`", path.read_text(encoding="utf-8")):
            if table not in Settings.model_fields:
                continue
            annotation = Settings.model_fields[table].annotation
            model = next(
                part
                for part in [annotation, *getattr(annotation, "__args__", ())]
                if hasattr(part, "model_fields")
            )
            assert key in model.model_fields, f"{path.name}: {table}.{key}"


def test_the_unit_outlasts_the_drain() -> None:
    """systemd must not kill the gate while it finishes calls in progress."""
    unit = (DEPLOY / "callgate.service").read_text(encoding="utf-8")
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert timeout
    factory = Settings.model_fields["limits"].default_factory
    assert factory is not None
    assert int(timeout[1]) > factory().drain_seconds  # type: ignore[call-arg]  # pydantic's factories may take data; this one takes none


def test_the_unit_waits_for_what_the_supervisor_says() -> None:
    """The notification needs a Unix socket, and a reload must not be requested twice."""
    unit = (DEPLOY / "callgate.service").read_text(encoding="utf-8")
    assert re.search(r"^Type=notify-reload$", unit, re.MULTILINE)
    assert re.search(r"^RestrictAddressFamilies=.*\bAF_UNIX\b", unit, re.MULTILINE)
    assert not re.search(r"^ExecReload=", unit, re.MULTILINE)


def test_the_unit_refuses_system_calls_and_does_not_kill_for_them() -> None:
    """A lower priority for the compressor and more open files are optional."""
    unit = (DEPLOY / "callgate.service").read_text(encoding="utf-8")
    assert re.search(r"^SystemCallFilter=~.*@resources", unit, re.MULTILINE)
    assert re.search(r"^SystemCallErrorNumber=EPERM$", unit, re.MULTILINE)


@pytest.mark.process
def test_the_two_commands_are_valid_make(tmp_path: Path) -> None:
    """A dry run of ``make run`` and ``make test`` succeeds without a virtual environment."""
    for target in ("run", "test"):
        done = subprocess.run(
            ["make", "--dry-run", target, f"VENV={tmp_path}/venv"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "pip install" in done.stdout
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 == 0o111


def test_every_module_that_make_runs_exists() -> None:
    """Each target that the head of the Makefile explains exists, and runs an existing module."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    modules = re.findall(r"bin/python -m (tests\.[a-z_]+)", text)
    assert modules
    for module in modules:
        assert (ROOT / module.replace(".", "/") / "__main__.py").is_file(), module
    documented = set(re.findall(r"(?m)^([a-z-]+):[^#\n]*## ", text))
    phony = re.search(r"(?m)^\.PHONY: (.+)$", text)
    assert phony
    targets = set(phony[1].split())
    assert documented <= targets
    parts = {"lint", "types", "fast", "tests", "test-compiled", "compiler", "system"}
    assert targets - documented == parts
