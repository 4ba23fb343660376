from pathlib import Path

from proxy.cli.policy_checks import check_policies
from proxy.errors import Problem
from tests.support.installation import SETTINGS, settings_of


def problems_in(directory: Path) -> list[Problem]:
    """Return what is wrong with the policies."""
    return list(check_policies(settings_of(directory)))


def with_catalog(directory: Path, name: str) -> Path:
    """Let the upstream have another catalog; return the directory."""
    text = SETTINGS.replace('url = "http', f'catalog = "{name}"\nurl = "http')
    (directory / "callgate.toml").write_text(text)
    return directory


def test_the_shipped_policies_have_no_problem(good: Path) -> None:
    """They load as `serve` would load them."""
    assert problems_in(good) == []


def test_a_broken_catalog_is_named_and_policies_are_not_blamed_for_it(good: Path) -> None:
    """A policy about a method whose catalog cannot be read is not wrong."""
    (good / "policies" / "catalogs" / "luigi.toml").write_text("methods = 3\n")
    problems = problems_in(good)
    assert problems
    assert all("luigi.toml" in problem.location for problem in problems)


def test_a_catalog_that_does_not_exist_is_named_with_those_that_do(good: Path) -> None:
    """The hint lists the names there are."""
    problem = problems_in(with_catalog(good, "luigy"))[0]
    assert problem.location == "callgate.toml:9: upstreams[0].catalog"
    assert problem.hint == "There are: luigi, supervisor."


def test_a_catalog_of_the_other_protocol_is_refused(good: Path) -> None:
    """Its methods would be those of another kind of server."""
    problem = problems_in(with_catalog(good, "supervisor"))[0]
    assert problem.message == "is a catalog for xmlrpc, not for luigi"


def test_without_a_policy_table_there_is_nothing_to_load(good: Path) -> None:
    """That the table is missing is a problem of the settings."""
    from proxy.config.loading import read_settings

    path = good / "callgate.toml"
    path.write_text(SETTINGS.replace('[policy]\ndirectory = "policies"\n', ""))
    settings, problems = read_settings(path, {})
    assert len(problems) == 1
    assert list(check_policies(settings)) == []


def test_unclassified_methods_are_counted_and_no_problem(good: Path) -> None:
    """A draft serves, and denies; the warning says how much is left to decide."""
    tables = [
        f'[methods.m{number}]\npermission = "unclassified"\nhelp = "?"\n' for number in range(10)
    ]
    text = 'name = "draft"\nprotocol = "xmlrpc"\n' + "".join(tables)
    path = good / "policies" / "catalogs" / "draft.toml"
    path.write_text(text)
    [warning] = problems_in(good)
    assert warning.warning
    assert warning.location == "catalogs/draft.toml"
    assert warning.message.startswith("10 of 10 methods are unclassified and denied: m0, m1, ")
    path.write_text(text.replace("unclassified", "view", 1))
    [warning] = problems_in(good)
    assert warning.message.startswith("9 of 10 methods")
