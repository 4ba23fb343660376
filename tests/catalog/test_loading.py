import inspect
from pathlib import Path

import luigi.scheduler
import pytest
import supervisor.rpcinterface

from proxy.catalog.loading import Catalog, load_catalog
from proxy.errors import ConfigError
from tests.support.paths import ROOT

CATALOGS = ROOT / "policies" / "catalogs"


@pytest.fixture(scope="module")
def luigi_catalog() -> Catalog:
    """Load the shipped catalog of luigid."""
    return load_catalog(CATALOGS / "luigi.toml")


@pytest.fixture(scope="module")
def supervisor_catalog() -> Catalog:
    """Load the shipped catalog of supervisord."""
    return load_catalog(CATALOGS / "supervisor.toml")


def test_every_method_of_luigid_is_in_its_catalog(luigi_catalog: Catalog) -> None:
    """The catalog has exactly luigid's RPC methods and the pages, with luigid's own arguments in
    luigid's own order.
    """
    pages = {"page.root", "page.visualiser", "page.history", "page.tasklist", "page.metrics"}
    assert set(luigi_catalog.methods) == set(luigi.scheduler.RPC_METHODS) | pages
    for name in luigi.scheduler.RPC_METHODS:
        parameters = list(
            inspect.signature(getattr(luigi.scheduler.Scheduler, name)).parameters.values()
        )[1:]
        declared = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        ours = luigi_catalog.methods[name].arguments
        assert [p.name for p in declared] == [a.name for a in ours][: len(declared)], name
        assert {p.name for p in declared if p.default is p.empty} <= {
            a.name for a in ours if a.required
        }, name


def test_the_defaults_of_luigid_are_accepted(luigi_catalog: Catalog) -> None:
    """A client that spells out every default of luigid (RemoteScheduler does) is accepted, except
    for ids luigid needs.
    """
    for name in luigi.scheduler.RPC_METHODS:
        method = luigi_catalog.methods[name]
        parameters = list(
            inspect.signature(getattr(luigi.scheduler.Scheduler, name)).parameters.values()
        )[1:]
        for parameter in parameters:
            if (
                parameter.default is parameter.empty
                or parameter.kind is parameter.VAR_KEYWORD
                or parameter.name in method.required
            ):
                continue
            kind, nullable = method.checks[parameter.name]
            assert nullable if parameter.default is None else kind.accepts(parameter.default), (
                name,
                parameter.name,
            )


def test_every_method_of_supervisord_is_in_its_catalog(supervisor_catalog: Catalog) -> None:
    """The catalog has exactly supervisord's public methods, with their arguments in order."""
    interface = supervisor.rpcinterface.SupervisorNamespaceRPCInterface
    methods = {
        f"supervisor.{n}": f
        for n, f in inspect.getmembers(interface, inspect.isfunction)
        if not n.startswith("_")
    }
    assert set(supervisor_catalog.methods) == set(methods)
    for name, function in methods.items():
        parameters = list(inspect.signature(function).parameters.values())[1:]
        ours = supervisor_catalog.methods[name].arguments
        assert [p.name for p in parameters] == [a.name for a in ours], name
        assert [p.name for p in parameters if p.default is p.empty] == [
            a.name for a in ours if a.required
        ], name


def test_work_calls_bind_the_calling_worker(luigi_catalog: Catalog) -> None:
    """Exactly the work methods that name their own worker have it bound; admin methods name workers
    freely.
    """
    bound = {name for name, method in luigi_catalog.methods.items() if method.worker_arg}
    assert bound == {
        "add_task", "add_task_batcher", "add_worker", "get_work", "count_pending", "ping", "announce_scheduling_failure",
    }  # fmt: skip
    assert all(luigi_catalog.methods[name].permission == "work" for name in bound)
    assert all("worker" in luigi_catalog.methods[name].required for name in bound)
    methods = luigi_catalog.methods.items()
    assert [name for name, method in methods if method.heartbeat] == ["ping"]
    assert [name for name, method in methods if method.suspended_while_draining] == ["get_work"]


def test_every_list_of_task_ids_is_decided_on_or_the_callers_own(luigi_catalog: Catalog) -> None:
    """A list of tasks that nobody decides on would be a way around every policy on tasks; only the
    caller's running ones are none.
    """
    lists = {
        (name, a.name)
        for name, method in luigi_catalog.methods.items()
        for a in method.arguments
        if a.type == "task-ids"
    }
    decided = {
        (name, argument)
        for name, method in luigi_catalog.methods.items()
        for argument in method.tasks_args
    }
    assert decided == {("add_task", "deps"), ("add_task", "new_deps")}
    assert lists - decided == {("get_work", "current_tasks")}


def test_secrets_are_marked(supervisor_catalog: Catalog) -> None:
    """What is written to a process is withheld from the record: it may be a password that the
    process asks for.
    """
    assert supervisor_catalog.methods["supervisor.sendProcessStdin"].secret_args == (("chars",),)


def test_every_problem_of_a_catalog_is_reported_at_once(tmp_path: Path) -> None:
    """All problems come in one error, each with its place in the file and what to do."""
    path = tmp_path / "policies" / "catalogs" / "odd.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        """
        name = "Odd!"
        protocol = "soap"
        colour = "red"
        [methods.a]
        class = "look"
        help = "Does a."
        task = ["nothing"]
        tasks = ["x"]
        arguments = [{ name = "x", type = "text" }, { name = "x", type = "string", requird = true }, 3]
        [methods.b]
        class = "view"
        extra = "yes"
        starts_with = { c = 1 }
        [methods."no good"]
        class = "view"
        help = "Has a bad name."
        """
    )
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    places = {
        problem.location.removeprefix("policies/catalogs/odd.toml: ")
        for problem in caught.value.problems
    }
    assert places == {
        "colour", "name", "protocol", "methods.a.class", "methods.a.task", "methods.a.tasks", "methods.a.arguments",
        "methods.a.arguments[0].type", "methods.a.arguments[1].requird", "methods.a.arguments[2]",
        "methods.b.help", "methods.b.extra", "methods.b.starts_with",
        "methods.no good",
    }  # fmt: skip
    assert all(problem.message and problem.hint for problem in caught.value.problems)


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe", b'name = "x"\nprotocol = "luigi"\n'])
def test_a_file_that_is_no_catalog_is_one_config_error(tmp_path: Path, text: bytes) -> None:
    """Broken TOML, broken UTF-8 and a file without methods give a ConfigError and nothing else."""
    path = tmp_path / "catalog.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError):
        load_catalog(path)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    """A catalog that cannot be read is reported by its place."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_catalog(tmp_path / "none.toml")
