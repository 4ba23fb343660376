from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.model import Catalog
from proxy.errors import ConfigError
from proxy.model import RoleGrant
from proxy.policy.load import load_policies

ROLES = '[[roles.viewer]]\nissuer = "local"\ngroup = "viewer"\n'
VIEW = '@id("view")\npermit (principal in Role::"viewer", action in Action::"view", resource);\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a directory with roles and one policy."""
    path = tmp_path / "policies"
    path.mkdir()
    (path / "roles.toml").write_text(ROLES)
    (path / "a.cedar").write_text(VIEW)
    return path


def problems(directory: Path, catalogs: dict[str, Catalog]) -> list[tuple[str, str]]:
    """Return the location and message of every problem that the load reports."""
    with pytest.raises(ConfigError) as caught:
        load_policies(directory, catalogs)
    assert all(problem.hint for problem in caught.value.problems)
    return [(problem.location, problem.message) for problem in caught.value.problems]


def test_all_files_are_one_set(directory: Path, catalogs: dict[str, Catalog]) -> None:
    """Every *.cedar file counts, and each policy knows its file and line."""
    (directory / "b.cedar").write_text("// first\n\n" + VIEW.replace('"view"', '"second"', 1))
    policies = load_policies(directory, catalogs)
    assert {name: place for name, (_, place) in policies.texts.items()} == {
        "view": "a.cedar:1",
        "second": "b.cedar:3",
    }


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        ('permit (principal in Role::"viewer", action, resource);', "has no valid @id"),
        (
            '@id("Not Good") permit (principal in Role::"viewer", action, resource);',
            "has no valid @id",
        ),
        (
            '@id("view") permit (principal in Role::"viewer", action, resource);',
            "@id view is not unique",
        ),
        ('@id("x") permit (principal == ?principal, action, resource);', "is a template"),
        (
            '@id("x") permit (principal, action, resourc);',
            "is not a policy: found an invalid variable in the policy scope: resourc",
        ),
        ('@id("x") permit (principal, action, resource)', "the policy has no end"),
        (";", "is not a policy"),
        (
            '@id("x") permit (principal in Role::"viewr", action, resource);',
            "x: names the role viewr, which roles.toml does not have",
        ),
        (
            '@id("x") permit (principal, action, resource) when { principal in Role::"ops" };',
            "x: names the role ops",
        ),
        (
            '@id("x") forbid (principal, action, resource == Scheduler::"lugi");',
            "x: names the upstream lugi",
        ),
        (
            '@id("x") permit (principal, action == Action::"task_lst", resource);',
            'x: unrecognized action `Action::"task_lst"`',
        ),
        (
            '@id("x") permit (principal, action == Action::"view", resource);',
            "x: unable to find an applicable action",
        ),
        (
            '@id("x") permit (principal, action == Action::"dep_graph", resource) when { context.args.taskid == "a" };',
            "x: names the argument taskid, which no method that it covers has",
        ),
        (
            '@id("x") permit (principal, action == Action::"dep_graph", resource) when { context.args.task_id == "a" };',
            "x: reads context.args.task_id, which a call of dep_graph may lack",
        ),
        (
            '@id("x") permit (principal in Role::"viewer", action == Action::"add_task", resource)'
            ' unless { context.args has famly && context.args.famly like "prod.*" };',
            "x: names the argument famly, which no method that it covers has",
        ),
        (
            '@id("x") permit (principal, action in Action::"trigger", resource) when { context has args.family };',
            "x: names the argument family, which no method that it covers has",
        ),
        (
            '@id("x") permit (principal, action == Action::"add_task", resource) when { context.args has params };',
            "x: names the argument params, which no method that it covers has",
        ),
        (
            '@id("x") forbid (principal, action, resource) when { context has tsk };',
            "x: names the attribute context.tsk, which does not exist",
        ),
        (
            '@id("x") forbid (principal, action, resource) when { principal has email };',
            "x: names the attribute principal.email",
        ),
        (
            '@id("x") permit (principal, action == Action::"graph", resource) when { context.agent == 1 && "a" };',
            "x: ",
        ),
        (
            '@id("x") permit (principal, action, resource) when { "\u202e" == "" };',
            "holds an invisible character",
        ),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(
    directory: Path, catalogs: dict[str, Catalog], policy: str, what: str
) -> None:
    """Each kind of mistake stops the load, and the problem has file and line of the policy."""
    (directory / "b.cedar").write_text(f"// a comment\n\n{policy}\n")
    found = problems(directory, catalogs)
    assert any(place == "b.cedar:3" and text.startswith(what) for place, text in found), found


def test_all_mistakes_of_all_files_are_reported_at_once(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """Syntax, ids, roles, names and types are reported together; one broken file does not hide
    another.
    """
    (directory / "b.cedar").write_text(
        '@id("p") permit (principal, action == Action::"nothing", resource);\n\npermit (oops);\n'
    )
    (directory / "c.cedar").write_text(
        '@id("q") permit (principal in Role::"nobody", action, resource);'
    )
    (directory / "d.cedar").write_bytes(b"\xff")
    (directory / "roles.toml").write_text(ROLES + "[roles.other]\n")
    assert {place for place, _ in problems(directory, catalogs)} == {
        "b.cedar:1",
        "b.cedar:3",
        "d.cedar",
        "roles.toml:4: roles.other",
    }
    (directory / "roles.toml").write_text(ROLES)
    assert {place for place, _ in problems(directory, catalogs)} == {
        "b.cedar:1",
        "b.cedar:3",
        "c.cedar:1",
        "d.cedar",
    }


def test_an_empty_set_is_no_set(directory: Path, catalogs: dict[str, Catalog]) -> None:
    """A directory without a policy is a mistake, and not a set that denies everything."""
    (directory / "a.cedar").write_text("// nothing\n")
    assert [what for _, what in problems(directory, catalogs)] == ["has no policy"]


def test_missing_roles_are_reported(directory: Path, catalogs: dict[str, Catalog]) -> None:
    """Without roles.toml no identity would have a role."""
    (directory / "roles.toml").unlink()
    assert [place for place, _ in problems(directory, catalogs)] == ["roles.toml"]


@pytest.mark.parametrize("name", ["roles.toml", "a.cedar"])
def test_a_file_that_is_no_text_is_reported(
    directory: Path, catalogs: dict[str, Catalog], name: str
) -> None:
    """The problem names the file."""
    (directory / name).write_bytes(b"\xff")
    assert (name, "is not UTF-8") in problems(directory, catalogs)


def test_an_issuer_that_the_settings_lack_is_reported(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """Roles are checked against the issuers of the settings where those are given."""
    with pytest.raises(ConfigError, match="local is no issuer of the settings"):
        load_policies(directory, catalogs, issuers={"okta"})


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        (
            'forbid (principal == User::"locl|bob", action, resource);',
            "x: names a user of the issuer locl, which the settings do not have",
        ),
        (
            'permit (principal, action, resource) when { principal == User::"x|y|z" };',
            "x: names a user of the issuer x, which",
        ),
        (
            'forbid (principal == User::"bob", action, resource);',
            "x: names the user bob without an issuer",
        ),
        (
            'forbid (principal == User::"", action, resource);',
            "x: names the user  without an issuer",
        ),
    ],
)
def test_a_user_whom_no_issuer_can_name_is_reported(
    directory: Path, catalogs: dict[str, Catalog], policy: str, what: str
) -> None:
    """A forbid on a mistyped issuer would forbid nothing."""
    (directory / "b.cedar").write_text(f'@id("x") {policy}')
    with pytest.raises(ConfigError) as caught:
        load_policies(directory, catalogs, issuers={"local"})
    assert [
        (problem.location, problem.message[: len(what)]) for problem in caught.value.problems
    ] == [("b.cedar:1", what)]
    (directory / "b.cedar").write_text(
        '@id("x") forbid (principal == User::"local|locl|bob", action, resource);'
    )
    assert load_policies(directory, catalogs, issuers={"local"}).texts["x"]


def test_policies_may_name_methods_of_catalogs_that_no_upstream_uses(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """One directory can serve several instances, as long as it has all their catalogs."""
    (directory / "b.cedar").write_text(
        '@id("x") forbid (principal, action == Action::"supervisor.shutdown", resource);'
    )
    with pytest.raises(ConfigError):
        load_policies(directory, {"luigi": catalogs["luigi"]})
    assert load_policies(
        directory, {"luigi": catalogs["luigi"]}, unused=[catalogs["processes"]]
    ).texts["x"]


def test_two_catalogs_of_one_name_are_refused(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """A policy snapshot has its catalogs by name: one would replace the other."""
    other = replace(next(iter(catalogs.values())), digest="0" * 64)
    with pytest.raises(ConfigError) as caught:
        load_policies(directory, {**catalogs, "other": other})
    assert [problem.message for problem in caught.value.problems] == [
        f"two files have the name {other.name!r}"
    ]


def test_catalogs_that_differ_in_a_method_are_refused(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """Their problems come with those of the policies."""
    luigi = catalogs["luigi"]
    other = replace(
        luigi,
        name="other",
        methods={"graph": replace(luigi.methods["graph"], permission="admin")},
    )
    (directory / "roles.toml").write_text(ROLES.replace("viewer", "reader"))
    assert [place for place, _ in problems(directory, {"luigi": luigi, "other": other})] == [
        "a.cedar:1",
        "catalogs/other.toml: methods.graph",
    ]


def test_the_hash_names_policies_roles_and_catalogs(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """The same files have the same hash in any directory. A change to any of them, or to a file's
    name, gives another.
    """
    first = load_policies(directory, catalogs).hash
    assert first.startswith("sha256:")
    assert len(first) == 71
    moved = directory.rename(directory.with_name("elsewhere"))
    hashes = {first, load_policies(moved, catalogs).hash}
    assert len(hashes) == 1
    hashes.add(load_policies(moved, {"luigi": catalogs["luigi"]}).hash)
    (moved / "a.cedar").write_text(VIEW + "// a comment\n")
    hashes.add(load_policies(moved, catalogs).hash)
    (moved / "a.cedar").rename(moved / "z.cedar")
    hashes.add(load_policies(moved, catalogs).hash)
    (moved / "roles.toml").write_text(ROLES + "# a comment\n")
    hashes.add(load_policies(moved, catalogs).hash)
    assert len(hashes) == 5


def test_the_set_holds_all_texts_that_its_hash_names(
    directory: Path, catalogs: dict[str, Catalog]
) -> None:
    """Policies, roles, catalogs and the catalog of each upstream are among the texts, so a snapshot
    lacks nothing that decides.
    """
    policies = load_policies(
        directory, {"luigi": catalogs["luigi"]}, unused=[catalogs["processes"]]
    )
    other = catalogs["processes"]
    assert set(policies.files) == {
        "a.cedar",
        "roles.toml",
        "upstreams.toml",
        "catalogs/luigi.toml",
        f"catalogs/{other.name}.toml",
    }
    assert policies.files["catalogs/luigi.toml"] == catalogs["luigi"].text != ""
    assert policies.files["upstreams.toml"] == '"luigi" = "luigi"\n'
    assert (
        policies.hash != load_policies(directory, {"luigi": other}, unused=[catalogs["luigi"]]).hash
    )


def test_the_roles_come_with_the_set(directory: Path, catalogs: dict[str, Catalog]) -> None:
    """Policies and roles are loaded and replaced together."""
    assert load_policies(directory, catalogs).roles.of("local", "s", ("viewer",), {}) == RoleGrant(
        ("viewer",)
    )
