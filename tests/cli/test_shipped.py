from pathlib import Path

import pytest

import proxy
from proxy.cli.shipped import shipped_policies
from proxy.errors import ConfigError


def test_a_checkout_has_its_policies() -> None:
    """They are next to the package."""
    assert (shipped_policies() / "roles.toml").is_file()


def test_an_installation_has_them_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel carries the policies in proxy/shipped, which is looked up first."""
    package = tmp_path / "proxy"
    (package / "shipped" / "policies").mkdir(parents=True)
    (package / "shipped" / "policies" / "roles.toml").write_text("")
    monkeypatch.setattr(proxy, "__file__", str(package / "__init__.py"))
    assert shipped_policies() == package / "shipped" / "policies"


def test_an_installation_without_policies_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is to install again."""
    monkeypatch.setattr(proxy, "__file__", str(tmp_path / "proxy" / "__init__.py"))
    with pytest.raises(ConfigError) as caught:
        shipped_policies()
    assert caught.value.problems[0].hint == "Install callgate again."
