"""Tests mirror modules: `proxy/a/b.py` has `tests/a/test_b.py`, or says here where it is tested.

A test file may add an aspect to the name of its module (`test_pool_retries.py`). Both lists below
may only shrink.
"""

from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.interpreted  # read the sources

TESTS = ROOT / "tests"

TESTED_ELSEWHERE = {
    "audit/writing/entry.py": "audit/writing/test_journal.py",
    "catalog/json_types.py": "catalog/test_types.py",
    "cli/audit/find_secret.py": "cli/audit/test_common.py",
    "cli/audit/report.py": "cli/audit/test_common.py",
    "cli/audit/stats.py": "cli/audit/test_common.py",
    "cli/demo/child.py": "cli/demo/test_demo.py",
    "cli/demo/command.py": "cli/demo/test_demo.py",
    "cli/demo/files.py": "cli/demo/test_demo.py",
    "cli/demo/instructions.py": "cli/demo/test_demo.py",
    "cli/demo/schedulers.py": "cli/demo/test_demo.py",
    "cli/demo/texts.py": "cli/demo/test_demo.py",
    "cli/options.py": "cli/test_check.py",
    "edge/server/context.py": "edge/server/test_server.py",
    "edge/server/handler.py": "edge/server/test_server.py",
    "edge/server/limits.py": "edge/server/test_server.py",
    "errors.py": "protocol/test_refusal.py",
    "gate/execution.py": "gate/test_pipeline.py",
    "gate/ports.py": "gate/test_pipeline.py",
    "gate/reporting.py": "gate/test_pipeline.py",
    "identity/issuer.py": "identity/test_verifier.py",
    "model.py": "gate/test_pipeline.py",
    "protocol/codec_table.py": "gate/test_routing.py",
    "protocol/luigi/batch_ids.py": "protocol/luigi/test_api.py",
    "protocol/luigi/calls.py": "protocol/luigi/test_api.py",
    "protocol/luigi/worker_identity.py": "protocol/luigi/test_api.py",
    "protocol/xmlrpc/http_binding.py": "protocol/xmlrpc/test_server.py",
    "protocol/xmlrpc/luigi_bridge.py": "protocol/xmlrpc/test_server.py",
    "runtime/process.py": "e2e/test_reload.py",
    "runtime/supervision/worker_process.py": "runtime/supervision/test_supervisor.py",
    "runtime/wiring.py": "e2e/test_reload.py",
}
"""Modules without a test file of their own, and the file that tests them."""

ABOUT_SEVERAL = {
    "audit/writing/test_durability.py",  # the writer's parts under kill -9
    "catalog/test_stock_worker.py",  # the shipped catalog against a stock worker
    "cli/demo/test_demo.py",  # the demo as a process
    "identity/test_oidc_provider.py",  # a real provider
    "policy/test_shipped.py",  # the shipped policies
    "protocol/xmlrpc/test_any_bytes.py",  # every reader of the package
    "protocol/xmlrpc/test_dialects.py",  # documents of other implementations
    "protocol/xmlrpc/test_peers.py",  # other implementations
    "protocol/xmlrpc/test_traps.py",  # the table of traps
}
"""Test files about more than one module."""


def modules() -> set[str]:
    """Return the modules of `proxy`, but for package faces."""
    paths = (ROOT / "proxy").rglob("*.py")
    return {
        path.relative_to(ROOT / "proxy").as_posix()
        for path in paths
        if path.name not in ("__init__.py", "__main__.py")
    }


def own_test(module: str) -> str:
    """Return the path of a module's own test file."""
    path = Path(module)
    return (path.parent / f"test_{path.name}").as_posix()


def test_every_module_has_its_test_file() -> None:
    """A newcomer finds the test of a module by the module's path."""
    missing = {module for module in modules() if not (TESTS / own_test(module)).is_file()}
    assert missing == TESTED_ELSEWHERE.keys()
    for module, path in TESTED_ELSEWHERE.items():
        assert (TESTS / path).is_file(), f"{module}: {path}"


def test_every_test_file_is_about_a_module() -> None:
    """A test file names its module, or an aspect of it."""
    known = modules()
    offenders = []
    for folder in {Path(module).parts[0] for module in known if "/" in module}:
        for path in (TESTS / folder).rglob("test_*.py"):
            name = path.relative_to(TESTS).as_posix()
            stem = path.stem.removeprefix("test_")
            parent = path.parent.relative_to(TESTS)
            words = stem.split("_")
            begins = ("_".join(words[:count]) for count in range(1, len(words) + 1))
            about = any((parent / f"{begin}.py").as_posix() in known for begin in begins)
            if not about and name not in ABOUT_SEVERAL:
                offenders.append(name)
    assert not offenders
    assert all((TESTS / name).is_file() for name in ABOUT_SEVERAL)
