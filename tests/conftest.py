"""What all tests share.

* A skipped test says why, and under CI=true a skip is a failure: a test that cannot run here must
  not look like one that passed where everything is meant to run.
* Tests marked ``exhaustive`` (slow, complete) run when CI=true, or with ``-m exhaustive``.
* Tests marked ``process`` start other processes. `make check` leaves them out, and holds the others
  to it: a test without the mark that starts a process fails.
* On the compiled package (`make test-compiled`), tests marked ``interpreted`` are left out.
* Hypothesis has no deadline, since a busy machine is no property of the code. Under CI it tries the
  same examples every time, elsewhere an eighth of as many.
"""

import logging
import sys
from collections.abc import Generator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

import proxy.gate.pipeline
from tests.support.amount import IN_CI, examples

settings.register_profile(
    "unhurried",
    deadline=None,
    derandomize=IN_CI,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")

COMPILED = not proxy.gate.pipeline.__file__.endswith(".py")


PROCESS_FOLDERS = ("tests/e2e/", "tests/bench/", "tests/soak/", "tests/cli/demo/", "tests/runtime/")
"""Folders whose tests start processes: all of them are marked ``process``."""

_may_start_processes = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and deselect those that are not meant to run here."""
    for item in items:
        if item.nodeid.startswith(PROCESS_FOLDERS):
            item.add_marker("process")
    unwanted = set()
    if COMPILED:
        unwanted |= {item for item in items if item.get_closest_marker("interpreted")}
    if not IN_CI and "exhaustive" not in (config.option.markexpr or ""):
        unwanted |= {item for item in items if item.get_closest_marker("exhaustive")}
    if unwanted:
        config.hook.pytest_deselected(items=[item for item in items if item in unwanted])
        items[:] = [item for item in items if item not in unwanted]


def _refuse_processes(event: str, _arguments: tuple[object, ...]) -> None:
    if not _may_start_processes and event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        raise RuntimeError("this test starts a process: mark it with @pytest.mark.process")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where processes are left out (`make check`), hold a test without the mark to it."""
    global _may_start_processes
    _may_start_processes = item.config.option.markexpr != "not process"
    try:
        return (yield)
    finally:
        _may_start_processes = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure under CI; an expected failure stays what it is."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped under CI=true, where every test has to run: {reason}"
        )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure under CI too."""
    report = yield
    if IN_CI and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid} was skipped under CI=true, where every test has to run: {reason}"
        )
    return report


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Put the process-wide set-up of logging back after each test."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)
