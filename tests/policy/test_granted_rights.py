from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.loading import load_catalog
from proxy.errors import ConfigError
from proxy.policy.granted_rights import GrantedRights
from proxy.policy.load import UPSTREAMS, load_policies

ROLES = """
[[roles.viewer]]
issuer = "i"
group = "v"
subject = "alice"
[[roles.admin]]
issuer = "i"
claim = { name = "team", equals = "ops" }
[[roles.admin]]
issuer = "i"
claim = { name = "scopes", contains = "luigi" }
[[roles.agent]]
issuer = "j"
anyone = true
agent = true
"""
POLICIES = """
@id("look") permit (principal in Role::"viewer", action in Action::"view", resource);
@id("rule") permit (principal in Role::"admin", action in Action::"admin", resource);
@id("only-look") forbid (principal, action in Action::"admin", resource) when { context.agent };
"""


@pytest.fixture
def texts(tmp_path: Path, shipped_catalog: Path) -> dict[str, str]:
    """Return the texts of a set with one upstream and one catalog that no upstream has."""
    used = load_catalog(shipped_catalog)
    (tmp_path / "roles.toml").write_text(ROLES)
    (tmp_path / "a.cedar").write_text(POLICIES)
    unused = replace(
        used, name="other", text=used.text.replace('name = "supervisor"', 'name = "other"')
    )
    loaded = load_policies(tmp_path, {"up": used}, unused=[unused])
    return dict(loaded.files)


def test_the_rights_are_those_of_the_texts(texts: dict[str, str]) -> None:
    """Methods by upstream and permission; a catalog without an upstream grants nothing."""
    rights = GrantedRights.from_texts(texts)
    viewer = rights.methods_of("i|alice", ["viewer"], agent=False)
    assert set(viewer) == {("up", "view")}
    assert "supervisor.getState" in viewer["up", "view"]
    assert set(rights.methods_of("i|bob", ["admin"], agent=False)) == {("up", "admin")}
    assert rights.methods_of("i|bob", ["admin"], agent=True) == {}
    assert rights.methods_of("i|bob", [], agent=False) == {}


def test_each_role_comes_with_its_condition(texts: dict[str, str]) -> None:
    """All conditions of a matcher are named, and the mark of an agent."""
    assert GrantedRights.from_texts(texts).roles() == [
        ("viewer", "i: group v and subject alice"),
        ("admin", "i: claim team equals 'ops'"),
        ("admin", "i: claim scopes contains luigi"),
        ("agent", "j: anyone (as an agent)"),
    ]


def test_a_set_without_catalogs_is_refused(texts: dict[str, str]) -> None:
    """An older version saved no catalogs, so the rights of such a set are unknown."""
    del texts[UPSTREAMS]
    with pytest.raises(ConfigError, match="has no catalogs"):
        GrantedRights.from_texts(texts)
