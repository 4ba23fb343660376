import inspect
import textwrap
from pathlib import Path

import luigi.scheduler
import pytest
import supervisor.rpcinterface

from proxy.catalog.loading import RENAMED_KEYS, RENAMED_TYPES, load_catalog, parse_catalog
from proxy.catalog.model import Catalog
from proxy.catalog.types import TYPES
from proxy.errors import ConfigError, Problem
from proxy.protocol.xmlrpc.supervisor_pages import METHODS
from tests.support.paths import ROOT

CATALOGS = ROOT / "policies" / "catalogs"


@pytest.fixture(scope="module")
def luigi_catalog() -> Catalog:
    """Return the shipped catalog of luigid."""
    return load_catalog(CATALOGS / "luigi.toml")


@pytest.fixture(scope="module")
def supervisor_catalog() -> Catalog:
    """Return the shipped catalog of supervisord."""
    return load_catalog(CATALOGS / "supervisor.toml")


def test_every_method_of_luigid_is_in_its_catalog(luigi_catalog: Catalog) -> None:
    """The catalog has luigid's RPC methods and the pages, with luigid's arguments in its order."""
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
    """A client that spells out every default of luigid is accepted, as RemoteScheduler does."""
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
    """The catalog has supervisord's public methods, with their arguments in order, and its pages."""
    interface = supervisor.rpcinterface.SupervisorNamespaceRPCInterface
    methods = {
        f"supervisor.{n}": f
        for n, f in inspect.getmembers(interface, inspect.isfunction)
        if not n.startswith("_")
    }
    assert set(supervisor_catalog.methods) - METHODS == set(methods)
    for name, function in methods.items():
        parameters = list(inspect.signature(function).parameters.values())[1:]
        ours = supervisor_catalog.methods[name].arguments
        assert [p.name for p in parameters] == [a.name for a in ours], name
        assert [p.name for p in parameters if p.default is p.empty] == [
            a.name for a in ours if a.required
        ], name


def test_work_calls_bind_the_calling_worker(luigi_catalog: Catalog) -> None:
    """Exactly the work methods that name the calling worker bind it to the principal."""
    bound = {name for name, method in luigi_catalog.methods.items() if method.worker_arg}
    assert bound == {
        "add_task", "add_task_batcher", "add_worker", "get_work", "count_pending", "ping",
        "announce_scheduling_failure",
    }  # fmt: skip
    assert all(luigi_catalog.methods[name].permission == "work" for name in bound)
    assert all("worker" in luigi_catalog.methods[name].required for name in bound)
    methods = luigi_catalog.methods.items()
    assert [name for name, method in methods if method.heartbeat] == ["ping"]
    assert [name for name, method in methods if method.suspended_while_draining] == ["get_work"]


def test_every_list_of_task_ids_is_decided_on_or_is_the_callers_own(luigi_catalog: Catalog) -> None:
    """A list of tasks without a decision would be a way around every policy on tasks.

    The only exception are the tasks that the caller is running.
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
        for argument in method.related_task_args
    }
    assert decided == {("add_task", "deps"), ("add_task", "new_deps")}
    assert lists - decided == {("get_work", "current_tasks")}


def test_the_catalog_of_the_guide_loads() -> None:
    """Copied from the page about catalogs, it has no problem."""
    page = (ROOT / "deploy" / "guide" / "catalogs.md").read_text()
    block = page.partition("```toml\n")[2].partition("```")[0]
    assert parse_catalog(textwrap.dedent(block), "launcher.toml").methods["launch"].task_args


def test_secrets_are_marked(supervisor_catalog: Catalog) -> None:
    """The input of a process is redacted in the record: it may be a password."""
    assert supervisor_catalog.methods["supervisor.sendProcessStdin"].secret_args == (("chars",),)


def problems(text: str) -> list[Problem]:
    """Return the problems of a catalog file."""
    with pytest.raises(ConfigError) as caught:
        parse_catalog(text, "odd.toml")
    return list(caught.value.problems)


def with_method(*lines: str) -> str:
    """Return a catalog with one method, whose table has these lines and the required keys."""
    head = 'name = "x"\nprotocol = "luigi"\n[methods.m]\npermission = "view"\nhelp = "Does m."\n'
    return head + "\n".join(lines)


def test_every_problem_of_a_catalog_is_reported_at_once() -> None:
    """One error has all problems, each with the line, the key and a hint."""
    found = problems(
        """
        name = "Odd!"
        protocol = "soap"
        colour = "red"
        [methods.a]
        permission = "look"
        help = "Does a."
        task = ["nothing"]
        related_tasks = ["x"]
        arguments = [{ name = "x", type = "string" }]
        [methods.b]
        permission = "view"
        allow_extra = "yes"
        must_start_with = { c = 1 }
        [methods.c]
        permission = "view"
        help = "Does c."
        arguments = [{ name = "x", type = "text" }, { name = "x", type = "any", requird = true }, 3]
        [methods."no good"]
        permission = "view"
        help = "Has a bad name."
        """
    )
    assert {problem.location.partition(": ")[2] for problem in found} == {
        "colour", "name", "protocol", "methods.a.permission", "methods.a.task[0]",
        "methods.a.related_tasks[0]", "methods.b.help", "methods.b.allow_extra",
        "methods.b.must_start_with.c", "methods.c.arguments[0].type",
        "methods.c.arguments[1].requird", "methods.c.arguments[2]", "methods.no good",
    }  # fmt: skip
    assert all(problem.message and problem.hint for problem in found)
    assert "odd.toml:4: colour" in {problem.location for problem in found}


@pytest.mark.parametrize(
    ("lines", "location", "message"),
    [
        (
            ['arguments = [{ name = "x", type = "any" }, { name = "x", type = "any" }]'],
            "odd.toml:6: methods.m.arguments",
            "has x twice",
        ),
        (
            ['arguments = [{ name = "1x", type = "any" }]'],
            "odd.toml:6: methods.m.arguments[0].name",
            "is not an argument name",
        ),
        (
            ['arguments = [{ name = "", type = "any" }]'],
            "odd.toml:6: methods.m.arguments[0].name",
            "is not an argument name",
        ),
        (
            ['arguments = [{ name = "x", type = "text" }]'],
            "odd.toml:6: methods.m.arguments[0].type",
            "is not an argument type",
        ),
        (
            ['arguments = [{ name = "x" }]'],
            "odd.toml:6: methods.m.arguments[0].type",
            "is missing",
        ),
        (["arguments = 1"], "odd.toml:6: methods.m.arguments", "must be a list"),
        (['task = ["x"]'], "odd.toml:6: methods.m.task[0]", "x is not an argument of the method"),
        (['worker = "x"'], "odd.toml:6: methods.m.worker", "x is not an argument of the method"),
        (
            ['arguments = [{ name = "x", type = "string-list" }]', 'related_tasks = ["x"]'],
            "odd.toml:7: methods.m.related_tasks[0]",
            "x is not a list of task ids",
        ),
        (
            ['arguments = [{ name = "x", type = "any" }]', 'must_start_with = { x = "y" }'],
            "odd.toml:7: methods.m.must_start_with.x",
            "y is not an argument of the method",
        ),
        (
            ['arguments = [{ name = "x", type = "any" }]', 'must_start_with = { y = "x" }'],
            "odd.toml:7: methods.m.must_start_with.y",
            "y is not an argument of the method",
        ),
        (['extra_type = "text"'], "odd.toml:6: methods.m.extra_type", "is not an argument type"),
        (["heartbeat = 1"], "odd.toml:6: methods.m.heartbeat", "must be true or false"),
        (
            ['permision = "view"'],
            "odd.toml:6: methods.m.permision",
            "is not a known key",
        ),
    ],
)
def test_a_problem_of_a_method_has_its_line(lines: list[str], location: str, message: str) -> None:
    """One mistake is one problem, at the line of its key."""
    (problem,) = problems(with_method(*lines))
    assert (problem.location, problem.message) == (location, message)
    assert problem.hint.endswith((".", "?"))


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_an_old_key_is_refused_with_its_new_name(old: str) -> None:
    """An old key of a method is one problem, which names the new key."""
    values = {
        "class": '"view"', "fresh": "true", "tasks": '["ids"]', "each_extra": '"json"',
        "extra": "true", "starts_with": '{ ids = "ids" }',
    }  # fmt: skip
    text = with_method(
        f"{old} = {values[old]}", 'arguments = [{ name = "ids", type = "task-ids" }]'
    )
    if old == "class":
        text = text.replace('permission = "view"\n', "\n")
    (problem,) = problems(text)
    assert problem.location == f"odd.toml:6: methods.m.{old}"
    assert problem.message == f"is renamed to {RENAMED_KEYS[old]}"


def test_an_old_key_of_the_catalog_is_refused_with_its_new_name() -> None:
    """The catalog's own ``extra`` was renamed too."""
    (problem,) = problems(with_method().replace("[methods", "extra = true\n[methods", 1))
    assert (problem.location, problem.message) == (
        "odd.toml:3: extra",
        "is renamed to allow_extra",
    )


@pytest.mark.parametrize("old", RENAMED_TYPES)
def test_an_old_type_is_refused_with_its_new_name(old: str) -> None:
    """An old type is one problem, which names the new type."""
    (problem,) = problems(with_method(f'arguments = [{{ name = "x", type = "{old}" }}]'))
    assert problem.message == f"{old} is renamed to {RENAMED_TYPES[old]}"
    assert RENAMED_TYPES[old] in TYPES


def test_old_names_are_accepted_in_what_an_earlier_version_recorded() -> None:
    """Audit logs hold the catalogs of their time, which reports load again."""
    text = """
        name = "x"
        protocol = "luigi"
        extra = true
        [methods.m]
        class = "work"
        help = "Does m."
        fresh = true
        tasks = ["ids"]
        each_extra = "amount"
        arguments = [{ name = "ids", type = "task-ids" }, { name = "w", type = "worker" }]
        """
    method = parse_catalog(text, "old.toml", accept_old_names=True).methods["m"]
    assert (method.permission, method.no_cache, method.allow_extra) == ("work", True, True)
    assert (method.related_task_args, method.extra_type) == (("ids",), "unsigned")
    assert [argument.type for argument in method.arguments] == ["task-ids", "worker-id"]
    assert len(problems(text)) == 7


def test_what_a_method_leaves_out_has_its_default() -> None:
    """The catalog's `allow_extra` is the default of its methods; null is for optional arguments."""
    catalog = parse_catalog(
        """
        name = "x"
        protocol = "xmlrpc"
        allow_extra = true
        [methods.a]
        permission = "view"
        help = "Does a."
        arguments = [
          { name = "one", type = "any" },
          { name = "two", type = "any", required = true },
          { name = "three", type = "any", required = true, nullable = true },
        ]
        [methods.b]
        permission = "view"
        help = "Does b."
        allow_extra = false
        """,
        "x.toml",
    )
    a, b = catalog.methods["a"], catalog.methods["b"]
    assert (a.allow_extra, b.allow_extra) == (True, False)
    assert [argument.nullable for argument in a.arguments] == [True, False, True]
    assert (a.returns, a.worker_arg, a.extra_type, a.no_cache) == ("any", None, None, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'name = "x"\nprotocol = "luigi"\n', "is missing"),
        (b'name = "x"\nprotocol = "luigi"\n[methods]\n', "has no method"),
        (b'name = "x"\nprotocol = "luigi"\nmethods = 1\n', "must be a table"),
        (b'name = "x"\nprotocol = "luigi"\n[methods]\nm = 1\n', "must be a table"),
    ],
)
def test_a_file_that_is_no_catalog_is_one_problem(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """Broken TOML, broken UTF-8 and a file without methods are config errors."""
    path = tmp_path / "catalog.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    (problem,) = caught.value.problems
    assert message in problem.message


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    """The problem names the file from the policies directory on."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_catalog(tmp_path / "none.toml")


def test_an_unclassified_method_is_none_that_can_be_called() -> None:
    """No policy can permit what is not among the methods; the catalog still knows its name."""
    catalog = parse_catalog(
        """
        name = "x"
        protocol = "xmlrpc"
        [methods.read]
        permission = "view"
        help = "Read."
        [methods."a.write"]
        permission = "unclassified"
        help = "Write."
        arguments = [{ name = "what", type = "string", required = true }]
        """,
        "x.toml",
    )
    assert list(catalog.methods) == ["read"]
    assert catalog.unclassified == {"a.write"}
