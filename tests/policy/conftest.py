from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
from proxy.model import Call, Value
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from tests.support.paths import ROOT

POLICIES = ROOT / "policies"
ROLES = """
[[roles.viewer]]
issuer = "local"
group = "viewer"
[[roles.worker]]
issuer = "local"
group = "worker"
[[roles.admin]]
issuer = "local"
group = "admin"
"""

Load = Callable[[str], PolicySet]


@pytest.fixture(scope="session")
def catalogs() -> dict[str, Catalog]:
    """Load the shipped catalogs, as two upstreams."""
    return {
        "luigi": load_catalog(POLICIES / "catalogs" / "luigi.toml"),
        "processes": load_catalog(POLICIES / "catalogs" / "supervisor.toml"),
    }


@pytest.fixture(scope="session")
def shipped_catalog() -> Path:
    """Return the path of a shipped catalog."""
    return POLICIES / "catalogs" / "supervisor.toml"


@pytest.fixture(scope="session")
def shipped(catalogs: dict[str, Catalog]) -> PolicySet:
    """Load the shipped policies."""
    return load_policies(POLICIES, catalogs)


@pytest.fixture
def load(tmp_path: Path, catalogs: dict[str, Catalog]) -> Load:
    """Return a function that loads one text of policies, with three roles, for the shipped
    catalogs.
    """

    def load_text(text: str) -> PolicySet:
        directory = tmp_path / "policies"
        directory.mkdir(exist_ok=True)
        (directory / "roles.toml").write_text(ROLES)
        (directory / "all.cedar").write_text(text)
        return load_policies(directory, catalogs)

    return load_text


@pytest.fixture
def call(catalogs: dict[str, Catalog]) -> Callable[..., Call]:
    """Return a function that makes a call of a method of luigid, or of an unknown one."""

    def make(
        method: str,
        args: dict[str, Value] | None = None,
        *,
        task: str | None = None,
        upstream: str = "luigi",
        others: tuple[str, ...] = (),
    ) -> Call:
        known = catalogs[upstream].methods.get(method)
        return Call(
            upstream=upstream,
            protocol=catalogs[upstream].protocol,
            method=method,
            permission=known.permission if known else "admin",
            args=args or {},
            in_catalog=known is not None,
            task=task,
            related_tasks=others,
        )

    return make
