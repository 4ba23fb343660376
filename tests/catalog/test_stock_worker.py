"""A stock worker and a stock scheduler, with the catalog's check on every call between them."""

# luigi is typed by half: its functions are not, and what a task may say of itself is declared as
# None.
# mypy: disable-error-code="no-untyped-call, misc, attr-defined"

import json
from typing import Any

import luigi
import luigi.mock
import luigi.rpc
import luigi.scheduler
import pytest

from proxy.catalog.checking import check_arguments
from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program

CATALOG = ROOT / "policies" / "catalogs" / "luigi.toml"


class Checked(luigi.rpc.RemoteScheduler):
    """A scheduler client that checks every call by the catalog and calls a scheduler in memory."""

    def __init__(self, catalog: Catalog, scheduler: luigi.scheduler.Scheduler) -> None:
        """Take the catalog and the scheduler; there is no network."""
        super().__init__("http://127.0.0.1:1/")
        self.catalog = catalog
        self.scheduler = scheduler
        self.called: set[str] = set()

    def _request(
        self, url: str, data: dict[str, Any], attempts: int = 3, allow_null: bool = True
    ) -> Any:
        name = url.removeprefix("/api/")
        args = json.loads(json.dumps(data))
        check_arguments(self.catalog.methods[name], args)
        self.called.add(name)
        return getattr(self.scheduler, name)(**args)


class Leaf(luigi.Task):
    """A task with resources, odd parameters, and all messages that a task can send."""

    task_namespace = "café.etl"
    number = luigi.IntParameter()
    text = luigi.Parameter(default="<b>&\"' ü\n")
    hidden = luigi.Parameter(default="h", visibility=luigi.parameter.ParameterVisibility.HIDDEN)
    private = luigi.Parameter(default="p", visibility=luigi.parameter.ParameterVisibility.PRIVATE)
    resources = {"db.slots": 1}  # noqa: RUF012  (luigi's own way to say it)
    accepts_messages = True
    owner_email = "ann@example.com,bob@example.com"

    def output(self) -> Any:
        """Give a target in memory."""
        return luigi.mock.MockTarget(f"leaf-{self.number}")

    def run(self) -> Any:
        """Say everything, then fail or finish."""
        self.set_tracking_url("http://127.0.0.1/x?y=1")
        self.set_status_message("3 < 4 & so on")
        self.set_progress_percentage(50)
        self.decrease_running_resources({"db.slots": 1})
        self.trigger_event("event.lab", self)
        if self.number == 2:
            raise ValueError("<two>")
        self.output().open("w").close()


class Batched(luigi.Task):
    """A task that runs in batches of any size."""

    item = luigi.Parameter(batch_method=max)

    def output(self) -> Any:
        """Give a target in memory."""
        return luigi.mock.MockTarget(f"batched-{self.item}")

    def run(self) -> None:
        """Write the targets of the whole batch."""
        for item in "abc":
            luigi.mock.MockTarget(f"batched-{item}").open("w").close()


class Outside(luigi.ExternalTask):
    """An external task, which no worker runs."""

    def output(self) -> Any:
        """Give a target that is not there."""
        return luigi.mock.MockTarget("outside")


class Unlisted(luigi.Task):
    """A task whose completeness check fails."""

    def complete(self) -> bool:
        """Fail."""
        raise RuntimeError("cannot tell")


class Root(luigi.WrapperTask):
    """The graph: done, failing, batched, external, dynamic and broken tasks."""

    def requires(self) -> Any:
        """Return one task of each kind."""
        return [
            Leaf(1),
            Leaf(2),
            Dynamic(),
            Outside(),
            Unlisted(),
            *(Batched(item) for item in "abc"),
        ]


class Dynamic(luigi.Task):
    """A task that yields a dependency while it runs."""

    def output(self) -> Any:
        """Give a target in memory."""
        return luigi.mock.MockTarget("dynamic")

    def run(self) -> Any:
        """Ask for another task, then finish."""
        yield Leaf(3)
        self.output().open("w").close()


@pytest.mark.filterwarnings("ignore")
def test_everything_a_stock_worker_sends_is_accepted() -> None:
    """Failures, batches, dynamic dependencies, resources and odd texts pass the catalog."""
    luigi.mock.MockFileSystem().clear()
    scheduler = Checked(
        load_catalog(CATALOG),
        luigi.scheduler.Scheduler(retry_delay=0.0, retry_count=2, batch_emails=True),
    )
    scheduler.scheduler.update_resources(**{"db.slots": 1})

    class CheckedFactory:
        """A scheduler factory that gives the worker `Checked`."""

        def create_local_scheduler(self) -> Checked:
            """Return the checked scheduler."""
            return scheduler

        def create_worker(
            self, scheduler: Any, worker_processes: int, assistant: bool = False
        ) -> luigi.worker.Worker:
            """Return a stock worker."""
            return luigi.worker.Worker(
                scheduler=scheduler, worker_processes=worker_processes, assistant=assistant
            )

    luigi.build(
        [Root()],
        worker_scheduler_factory=CheckedFactory(),
        local_scheduler=True,
        log_level="CRITICAL",
    )
    tasks = scheduler.scheduler.task_list("", "")
    done = {task["display_name"] for task in tasks.values() if task["status"] == "DONE"}
    assert {"Batched(item=a)", "Batched(item=b)", "Batched(item=c)", "Dynamic()"} <= done
    assert any(name.startswith("café.etl.Leaf(") for name in done)
    assert {
        "add_task",
        "add_task_batcher",
        "add_worker",
        "get_work",
        "announce_scheduling_failure",
        "set_task_status_message",
    } <= (scheduler.called)
    assert {"set_task_progress_percentage", "decrease_running_task_resources"} <= scheduler.called
