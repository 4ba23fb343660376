import pytest

from proxy.errors import ConfigError
from proxy.policy.roles import parse_roles
from tests.support.paths import ROOT

SHIPPED = ROOT / "policies" / "roles.toml"


def matcher(*lines: str) -> str:
    """Write one matcher of the role x."""
    return "\n".join(["[[roles.x]]", *lines])


@pytest.mark.parametrize(
    ("line", "subject", "claims", "holds"),
    [
        ('group = "g"', "s", {"groups": ["f", "g"]}, True),
        ('group = "g"', "s", {"groups": "g"}, True),
        ('group = "g"', "s", {"groups": ["gg", "G"]}, False),
        ('group = "g"', "s", {"groups": [["g"], 7]}, False),
        ('group = "g"', "s", {"groups": {"g": 1}}, False),
        ('group = "g"', "s", {}, False),
        ('subject = "s"', "s", {}, True),
        ('subject = "s"', "S", {}, False),
        ('subject = "s"', "x", {"sub": "s", "groups": ["s"]}, False),
        ('claim = { name = "d", equals = "a" }', "s", {"d": "a"}, True),
        ('claim = { name = "d", equals = "a" }', "s", {"d": ["a"]}, False),
        ('claim = { name = "d", equals = "a" }', "s", {}, False),
        ('claim = { name = "d", equals = 1 }', "s", {"d": 1}, True),
        ('claim = { name = "d", equals = 1 }', "s", {"d": True}, False),
        ('claim = { name = "d", equals = 1 }', "s", {"d": 1.0}, False),
        ('claim = { name = "d", equals = true }', "s", {"d": True}, True),
        ('claim = { name = "d", equals = true }', "s", {"d": 1}, False),
        ('claim = { name = "d", equals = false }', "s", {}, False),
        ('claim = { name = "d", contains = "a" }', "s", {"d": ["b", "a"]}, True),
        ('claim = { name = "d", contains = "a" }', "s", {"d": "abc"}, False),
        ('claim = { name = "d", contains = "a" }', "s", {"d": {"a": 1}}, False),
        ('group = "g"\nsubject = "s"', "s", {"groups": ["g"]}, True),
        ('group = "g"\nsubject = "s"', "t", {"groups": ["g"]}, False),
        ('group = "g"\nsubject = "s"', "s", {"groups": []}, False),
        ("anyone = true", "s", {}, True),
    ],
)
def test_a_matcher_holds_exactly_when_all_its_conditions_do(
    line: str, subject: str, claims: dict[str, object], holds: bool
) -> None:
    """Each kind of condition, with the claim types that could be confused: a list is no text, true
    is not 1.
    """
    roles = parse_roles(matcher('issuer = "a"', line))
    assert roles.of("a", subject, claims) == ((("x",) if holds else ()), False)


def test_another_issuer_says_nothing() -> None:
    """The same group or subject from an issuer that the matcher does not name gives no role."""
    roles = parse_roles(matcher('issuer = "a"', 'group = "g"'))
    assert roles.of("b", "s", {"groups": ["g"], "iss": "a"}) == ((), False)


def test_roles_come_sorted_and_once() -> None:
    """Several matchers that hold give each role once, in order, and any of them may mark an agent."""
    text = (
        matcher('issuer = "a"', 'group = "g"')
        + "\n"
        + matcher('issuer = "a"', 'subject = "s"', "agent = true")
        + '\n[[roles.b]]\nissuer = "a"\ngroup = "g"\n'
    )
    assert parse_roles(text).of("a", "s", {"groups": ["g"]}) == (("b", "x"), True)
    assert parse_roles(text).of("a", "t", {"groups": ["g"]}) == (("b", "x"), False)


def test_groups_are_read_from_the_claim_that_the_settings_name() -> None:
    """An issuer's groups can stand in another claim; the usual one then says nothing."""
    roles = parse_roles(matcher('issuer = "a"', 'group = "g"'), {"a": "roles"})
    assert roles.of("a", "s", {"roles": ["g"]}) == (("x",), False)
    assert roles.of("a", "s", {"groups": ["g"]}) == ((), False)


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
            "stands beside another condition",
        ),
        (matcher('issuer = "a"', 'group = ""'), "roles.x[0].group", "must be text"),
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
            "names no one for certain",
        ),
        (
            matcher('issuer = "a"', 'claim = { name = "preferred_username", equals = "a" }'),
            "roles.x[0].claim.name",
            "no one for certain",
        ),
        *(
            (
                matcher('issuer = "a"', f'claim = {{ name = "{name}", equals = "a" }}'),
                "roles.x[0].claim.name",
                "names no one for certain",
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
        ('[roles.x]\nissuer = "a"\ngroup = "g"', "roles.x", "must be a list of tables"),
        ('[[roles."X y"]]\nissuer = "a"\ngroup = "g"', "roles.X y", "is not a role name"),
        ("[roles]\nx = [1]", "roles.x[0]", "must be a table"),
        ("", "roles", "has no role"),
        (
            'colour = "red"\n' + matcher('issuer = "a"', 'group = "g"'),
            "colour",
            "is not a known key",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, place: str, what: str) -> None:
    """What is wrong stops the load: never a matcher that silently matches everyone, or no one."""
    with pytest.raises(ConfigError) as caught:
        parse_roles(text, {"a": "groups"})
    assert (f"roles.toml: {place}", True) in [
        (problem.location, what in problem.message) for problem in caught.value.problems
    ]
    assert all(problem.hint for problem in caught.value.problems)


@pytest.mark.parametrize(
    "name",
    ["department", "mailing_list", "email_domain_checked", "https://idp.example/claims/team"],
)
def test_a_claim_that_merely_resembles_a_name_is_a_condition(name: str) -> None:
    """What is refused is the claim that names a person, in whatever spelling, not every claim with
    the word in it.
    """
    roles = parse_roles(
        matcher('issuer = "a"', f'claim = {{ name = "{name}", equals = "d" }}'), {"a": "groups"}
    )
    assert roles.of("a", "s", {name: "d"}) == (("x",), False)


def test_all_mistakes_are_told_at_once() -> None:
    """One error holds every problem of the file."""
    with pytest.raises(ConfigError) as caught:
        parse_roles(
            matcher('group = "g"', "agent = 1") + "\n" + matcher('issuer = "b"'), {"a": "groups"}
        )
    assert len(caught.value.problems) == 4


def test_what_is_no_toml_is_a_config_error() -> None:
    """It names the file."""
    with pytest.raises(ConfigError, match=r"roles\.toml: is not TOML"):
        parse_roles("[[roles.x]")


@pytest.mark.parametrize("group", ["viewer", "worker", "assistant", "operator", "admin", "agent"])
def test_the_shipped_roles_are_the_local_groups(group: str) -> None:
    """The local issuer's groups are the roles of the same name, and only the group agent marks an
    agent.
    """
    roles = parse_roles(SHIPPED.read_text(), {"local": "groups"})
    assert roles.of("local", "s", {"groups": [group]}) == ((group,), group == "agent")
    assert roles.of("okta", "s", {"groups": [group]}) == ((), False)
