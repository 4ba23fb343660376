"""The tables in policies/tests against the shipped policies."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog.model import Catalog
from proxy.model import Call, Principal, Reason
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from tests.support.documents import DOCUMENTS, blocks
from tests.support.paths import ROOT

TABLES = sorted((ROOT / "policies" / "tests").glob("*.toml"))


def table(path: Path) -> dict[str, Any]:
    """Read one table."""
    return tomllib.loads(path.read_text())


def upstream_of(catalogs: dict[str, Catalog], name: str) -> str:
    """Return the upstream that has the catalog of that name."""
    return next(upstream for upstream, catalog in catalogs.items() if catalog.name == name)


def make_call(
    catalogs: dict[str, Catalog], upstream: str, method: str, args: dict[str, Any]
) -> Call:
    """Make a call as the codec does."""
    known = catalogs[upstream].methods.get(method)
    task = next(
        (str(args[name]) for name in (known.task_args if known else ()) if args.get(name)), None
    )
    return Call(
        upstream,
        catalogs[upstream].protocol,
        method,
        known.permission if known else "admin",
        args,
        known is not None,
        task,
    )


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_each_role_may_call_the_methods_of_the_table(
    path: Path, catalogs: dict[str, Catalog], shipped: PolicySet
) -> None:
    """The table names every role and every method of the catalog, and the policies decide as it
    says.
    """
    document = table(path)
    upstream = upstream_of(catalogs, document["catalog"])
    assert set(document["may"]) == set(catalogs[upstream].methods)
    assert set(document["roles"]) == shipped.roles.names
    wrong = []
    for method, holders in document["may"].items():
        assert set(holders) <= set(document["roles"]), method
        for role in document["roles"]:
            principal = Principal(
                "https://callgate.local/issuer", "local", "someone", (role,), agent=role == "agent"
            )
            decision = shipped.decide(principal, make_call(catalogs, upstream, method, {}))
            if (
                decision.allowed != (role in holders)
                or shipped.may_call(principal, upstream, method) != decision.allowed
            ):
                wrong.append((role, method, decision.reason))
    assert wrong == []


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_each_case_is_decided_as_it_says(
    path: Path, catalogs: dict[str, Catalog], shipped: PolicySet
) -> None:
    """The cases with arguments, several roles and agents have the reason and the policies that they
    name.
    """
    document = table(path)
    upstream = upstream_of(catalogs, document["catalog"])
    for case in document["case"]:
        principal = Principal(
            "https://callgate.local/issuer",
            "local",
            "someone",
            tuple(sorted(case["roles"])),
            agent=case.get("agent", False),
        )
        decision = shipped.decide(
            principal, make_call(catalogs, upstream, case["method"], case.get("args", {}))
        )
        assert (decision.reason, list(decision.policies)) == (
            Reason(case["reason"]),
            case.get("decided_by", []),
        ), case["says"]


def test_the_shipped_policies_are_twenty_readable_lines() -> None:
    """Without its comments roles.cedar stays short enough to read."""
    text = (TABLES[0].parents[1] / "roles.cedar").read_text()
    code = [line for line in text.splitlines() if line.strip() and not line.startswith("//")]
    assert len(code) <= 20


def shown_policies() -> list[str]:
    """Return the policies that comments and documents show, without the comment marks."""
    shown = [
        block.text for path in DOCUMENTS for block in blocks(path) if block.language == "cedar"
    ]
    for path in (ROOT / "policies").rglob("*"):
        if path.suffix in (".cedar", ".toml"):
            comments = re.sub(r"^(//|#) ?", "", path.read_text(), flags=re.MULTILINE)
            shown += re.findall(r"^ +(@id\(.*?;)$", comments, re.DOTALL | re.MULTILINE)
    return shown


def test_the_policies_that_documents_show_are_valid(
    tmp_path: Path, catalogs: dict[str, Catalog]
) -> None:
    """A reader copies them: each loads as it is, with a role of its own."""
    shown = shown_policies()
    assert len(shown) >= 4
    roles = (ROOT / "policies" / "roles.toml").read_text()
    (tmp_path / "roles.toml").write_text(
        roles
        + "".join(
            f'\n[[roles.{role}]]\nissuer = "local"\ngroup = "{role}"\n'
            for role in ("etl-worker", "oncall", "billing-oncall")
        )
    )
    for text in shown:
        (tmp_path / "shown.cedar").write_text(text)
        assert load_policies(tmp_path, catalogs).texts


@pytest.mark.parametrize(
    ("method", "task", "allowed"),
    [
        ("add_task", "etl.Load_1", True),
        ("add_task", "prod.Load_1", False),
        ("add_task", None, False),
        ("ping", None, True),
        ("get_work", None, True),
        ("task_list", None, False),
    ],
)
def test_the_scope_that_documents_show_fails_closed(
    tmp_path: Path, catalogs: dict[str, Catalog], method: str, task: str | None, allowed: bool
) -> None:
    """A method without a task is allowed by its name only, so a call that leaves its task out is
    denied.
    """
    scope = next(text for text in shown_policies() if "etl-workers-alive" in text)
    (tmp_path / "shown.cedar").write_text(scope)
    (tmp_path / "roles.toml").write_text('[[roles.etl-worker]]\nissuer = "local"\nanyone = true\n')
    policies = load_policies(tmp_path, catalogs)
    principal = Principal("https://callgate.local/issuer", "local", "someone", ("etl-worker",))
    asked = make_call(catalogs, "luigi", method, {} if task is None else {"task_id": task})
    assert policies.decide(principal, asked).allowed is allowed


def test_no_document_shows_a_scope_that_lets_calls_without_a_task_through() -> None:
    """``unless { context has task && !(...) }`` permits every call that names no task."""
    paths = [ROOT / "README.md", *(ROOT / "policies").rglob("*"), *(ROOT / "deploy").rglob("*")]
    offenders = [
        path.name
        for path in paths
        if path.suffix in (".md", ".cedar", ".toml")
        and re.search(r"unless\s*\{\s*context has task", path.read_text())
    ]
    assert not offenders
