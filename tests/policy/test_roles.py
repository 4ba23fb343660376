import pytest

from proxy.errors import ConfigError
from proxy.model import RoleGrant
from proxy.policy.roles import parse_roles
from tests.support.paths import ROOT

SHIPPED = ROOT / "policies" / "roles.toml"


def matcher(*lines: str) -> str:
    """Write one matcher of the role x."""
    return "\n".join(["[[roles.x]]", *lines])


@pytest.mark.parametrize(
    ("line", "subject", "groups", "claims", "holds"),
    [
        ('group = "g"', "s", ("f", "g"), {}, True),
        ('group = "g"', "s", ("gg", "G"), {}, False),
        ('group = "g"', "s", (), {}, False),
        ('group = "g"', "s", (), {"groups": ["g"]}, False),
        ('subject = "s"', "s", (), {}, True),
        ('subject = "s"', "S", (), {}, False),
        ('subject = "s"', "x", ("s",), {"sub": "s"}, False),
        ('claim = { name = "d", equals = "a" }', "s", (), {"d": "a"}, True),
        ('claim = { name = "d", equals = "a" }', "s", (), {"d": ["a"]}, False),
        ('claim = { name = "d", equals = "a" }', "s", (), {}, False),
        ('claim = { name = "d", equals = "" }', "s", (), {"d": ""}, True),
        ('claim = { name = "d", equals = 1 }', "s", (), {"d": 1}, True),
        ('claim = { name = "d", equals = 1 }', "s", (), {"d": True}, False),
        ('claim = { name = "d", equals = 1 }', "s", (), {"d": 1.0}, False),
        ('claim = { name = "d", equals = true }', "s", (), {"d": True}, True),
        ('claim = { name = "d", equals = true }', "s", (), {"d": 1}, False),
        ('claim = { name = "d", equals = false }', "s", (), {}, False),
        ('claim = { name = "d", equals = false }', "s", (), {"d": False}, True),
        ('claim = { name = "d", contains = "a" }', "s", (), {"d": ["b", "a"]}, True),
        ('claim = { name = "d", contains = "a" }', "s", (), {"d": "abc"}, False),
        ('claim = { name = "d", contains = "a" }', "s", (), {"d": {"a": 1}}, False),
        ('group = "g"\nsubject = "s"', "s", ("g",), {}, True),
        ('group = "g"\nsubject = "s"', "t", ("g",), {}, False),
        ('group = "g"\nsubject = "s"', "s", (), {}, False),
        ("anyone = true", "s", (), {}, True),
    ],
)
def test_a_matcher_holds_exactly_when_all_its_conditions_do(
    line: str, subject: str, groups: tuple[str, ...], claims: dict[str, object], holds: bool
) -> None:
    """Each kind of condition, with the claim types that could be confused: a list is no text, true
    is not 1.
    """
    roles = parse_roles(matcher('issuer = "a"', line))
    assert roles.of("a", subject, groups, claims) == RoleGrant(("x",) if holds else ())


def test_a_matcher_speaks_for_its_own_issuer_only() -> None:
    """The same group or subject from another issuer gives no role."""
    roles = parse_roles(matcher('issuer = "a"', 'group = "g"'))
    assert roles.of("b", "s", ("g",), {"iss": "a"}) == RoleGrant(())


def test_roles_come_sorted_and_once() -> None:
    """Several matchers that hold give each role once, in order, and any of them may mark an agent."""
    text = (
        matcher('issuer = "a"', 'group = "g"')
        + "\n"
        + matcher('issuer = "a"', 'subject = "s"', "agent = true")
        + '\n[[roles.b]]\nissuer = "a"\ngroup = "g"\nagent = false\n'
    )
    assert parse_roles(text).of("a", "s", ("g",), {}) == RoleGrant(("b", "x"), agent=True)
    assert parse_roles(text).of("a", "t", ("g",), {}) == RoleGrant(("b", "x"), agent=False)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (matcher('group = "g"'), "roles.x[0].issuer", "is missing"),
        (
            matcher('issuer = "other"', 'group = "g"'),
            "roles.x[0].issuer",
            "is no issuer of the settings",
        ),
        (matcher('issuer = "a"'), "roles.x[0]", "has no condition"),
        (matcher('issuer = "a"', "agent = true"), "roles.x[0]", "has no condition"),
        (matcher('issuer = "a"', "anyone = false"), "roles.x[0].anyone", "must be true"),
        (
            matcher('issuer = "a"', "anyone = true", 'group = "g"'),
            "roles.x[0].anyone",
            "cannot be combined with another condition",
        ),
        (matcher('issuer = "a"', 'group = ""'), "roles.x[0].group", "must not be empty"),
        (matcher('issuer = "a"', 'group = ["g"]'), "roles.x[0].group", "must be text"),
        (matcher('issuer = "a"', 'groups = "g"'), "roles.x[0].groups", "is not a known key"),
        (matcher('issuer = "a"', 'claim = "d"'), "roles.x[0].claim", "must be a table"),
        (
            matcher('issuer = "a"', 'claim = { equals = "d" }'),
            "roles.x[0].claim.name",
            "is missing",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "d" }'),
            "roles.x[0].claim",
            "needs exactly one",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "d", equals = "a", contains = "b" }'),
            "roles.x[0].claim",
            "needs exactly one",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "d", equals = ["a"] }'),
            "roles.x[0].claim.equals",
            "must be text",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "d", like = "a" }'),
            "roles.x[0].claim.like",
            "is not a known key",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "email", equals = "a@b" }'),
            "roles.x[0].claim.name",
            "does not identify a person for certain",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "preferred_username", equals = "a" }'),
            "roles.x[0].claim.name",
            "does not identify a person for certain",
        ),
        *(
            (
                matcher('issuer = "a"', f'claim = {{ name = "{name}", equals = "a" }}'),
                "roles.x[0].claim.name",
                "does not identify a person for certain",
            )
            for name in (
                *(
                    "Email",
                    "e-mail",
                    "mail",
                    "MAIL",
                    "UPN",
                    "userPrincipalName",
                    "Preferred_Username",
                    "displayName",
                    "family name",
                ),
                *(
                    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress",
                    "https://idp.example/claims/email/",
                ),
            )
        ),
        ('[roles.x]\nissuer = "a"\ngroup = "g"', "roles.x", "must be a list"),
        ('[[roles."X y"]]\nissuer = "a"\ngroup = "g"', "roles.X y", "is not a role name"),
        ("[roles]\nx = [1]", "roles.x[0]", "must be a table"),
        ("", "roles", "is missing"),
        ("[roles]", "roles", "has no role"),
        (
            'colour = "red"\n' + matcher('issuer = "a"', 'group = "g"'),
            "colour",
            "is not a known key",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place(text: str, place: str, what: str) -> None:
    """A mistake stops the load: no matcher silently matches every subject, or none."""
    with pytest.raises(ConfigError) as caught:
        parse_roles(text, {"a"})
    assert (place, True) in [
        (problem.location.partition(": ")[2], what in problem.message)
        for problem in caught.value.problems
    ]
    assert all(problem.hint for problem in caught.value.problems)


@pytest.mark.parametrize(
    "name",
    ["department", "mailing_list", "email_domain_checked", "https://idp.example/claims/team"],
)
def test_a_claim_that_merely_resembles_a_name_is_a_condition(name: str) -> None:
    """The claims that name a person are refused in any spelling; others with the same word in them
    are not.
    """
    roles = parse_roles(
        matcher('issuer = "a"', f'claim = {{ name = "{name}", equals = "d" }}'), {"a"}
    )
    assert roles.of("a", "s", (), {name: "d"}) == RoleGrant(("x",))


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    """One error holds every problem of the file. The conditions of a matcher are checked together
    once each of its keys is right.
    """
    with pytest.raises(ConfigError) as caught:
        parse_roles(
            matcher('group = "g"', "agent = 1")
            + "\n"
            + matcher('issuer = "b"')
            + "\n"
            + matcher('issuer = "a"'),
            {"a"},
        )
    assert [(one.location, one.message) for one in caught.value.problems] == [
        ("roles.toml:1: roles.x[0].issuer", "is missing"),
        ("roles.toml:3: roles.x[0].agent", "must be true or false"),
        ("roles.toml:5: roles.x[1].issuer", "b is no issuer of the settings"),
        ("roles.toml:6: roles.x[2]", "has no condition"),
    ]


def test_issuers_are_unchecked_without_the_settings() -> None:
    """Policy snapshots are read without the settings of their day."""
    assert parse_roles(matcher('issuer = "any"', "anyone = true")).names == {"x"}


def test_text_that_is_no_toml_is_reported_with_its_line() -> None:
    """The file is named too."""
    with pytest.raises(ConfigError, match=r"roles\.toml:1: is not valid TOML"):
        parse_roles("[[roles.x]")


@pytest.mark.parametrize("group", ["viewer", "worker", "assistant", "operator", "admin", "agent"])
def test_the_shipped_roles_are_the_local_groups(group: str) -> None:
    """The local issuer's groups are the roles of the same name, and only the group agent marks an
    agent.
    """
    roles = parse_roles(SHIPPED.read_text(), {"local"})
    assert roles.of("local", "s", (group,), {}) == RoleGrant((group,), group == "agent")
    assert roles.of("okta", "s", (group,), {}) == RoleGrant(())
