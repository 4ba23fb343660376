"""The roles of an identity: ``policies/roles.toml``, by issuer and by the issuer's own claims.

    [[roles.viewer]]
    issuer = "okta"             # required: a matcher speaks for one issuer
    group = "data-viewers"      # or subject, claim, anyone; all conditions of a matcher must hold

A role is granted when any of its matchers holds. Identity is issuer and subject. Claims that a
person can choose, or that pass from one person to the next (e-mail address, display name), are
refused as conditions. A matcher without a condition is refused too: a forgotten line must never
mean everyone.

Groups are those that `proxy.identity` verified; no other reading of the claim exists.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from proxy.common.validation import freeze, in_file, invalid, parse_toml, problems_of
from proxy.errors import ConfigError
from proxy.model import RoleGrant

FILE = "roles.toml"
ROLE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

# Claims that identify no person for certain: users edit them, and addresses are given to the next
# person. In lower case and without signs, as `_bare` makes them; issuers spell them in many ways.
_UNRELIABLE_CLAIMS = {
    "email",
    "emailaddress",
    "mail",
    "name",
    "displayname",
    "preferredusername",
    "username",
    "uniquename",
    "upn",
    "userprincipalname",
    "nickname",
    "givenname",
    "familyname",
    "surname",
    "middlename",
    "profile",
    "picture",
    "phonenumber",
}


@dataclass(frozen=True, slots=True)
class Matcher:
    """One way to hold `role`: for a token of `issuer`, every condition that is not None holds.

    `equals` compares with a claim of the same type, never with a member of a list. `contains` asks
    whether a list of strings has the text. `agent` marks the subject as software that acts for a
    person.
    """

    role: str
    issuer: str
    group: str | None = None
    subject: str | None = None
    claim: str | None = None
    equals: str | int | bool | None = None
    contains: str | None = None
    agent: bool = False

    def holds(self, subject: str, groups: Collection[str], claims: Mapping[str, object]) -> bool:
        """Return whether the matcher holds for a subject of its issuer."""
        if self.subject is not None and self.subject != subject:
            return False
        if self.group is not None and self.group not in groups:
            return False
        if self.claim is None:
            return True
        value = claims.get(self.claim)
        if self.contains is not None:
            return isinstance(value, list) and any(
                type(item) is str and item == self.contains for item in value
            )
        return type(value) is type(self.equals) and value == self.equals


class Roles:
    """The roles of every identity. `names` are all roles, also those that no identity holds."""

    def __init__(self, matchers: Sequence[Matcher], names: Collection[str]) -> None:
        self.names = frozenset(names)
        self.matchers = tuple(matchers)

    def of(
        self,
        issuer_name: str,
        subject: str,
        groups: Collection[str],
        claims: Mapping[str, object],
    ) -> RoleGrant:
        """Return the roles of a verified subject. One matcher's agent mark marks the subject."""
        held = [
            matcher
            for matcher in self.matchers
            if matcher.issuer == issuer_name and matcher.holds(subject, groups, claims)
        ]
        return RoleGrant(
            tuple(sorted({matcher.role for matcher in held})),
            agent=any(matcher.agent for matcher in held),
        )


def parse_roles(text: str, issuers: Collection[str] | None = None) -> Roles:
    """Parse the `text` of roles.toml.

    `issuers` are the issuer names of the settings; None leaves the names unchecked.

    Raises:
        ConfigError: with every problem of the text.

    """
    tables = freeze(parse_toml(text, FILE))
    try:
        file = _File.model_validate(tables, context={"issuers": issuers})
    except ValidationError as error:
        hint = "See the comments in policies/roles.toml for an example."
        raise ConfigError(
            problems_of(error, _File, in_file(FILE, text), default_hint=hint)
        ) from None
    matchers = [table.matcher(role) for role, tables in file.roles.items() for table in tables]
    return Roles(matchers, file.roles)


def _bare(claim: str) -> str:
    """Return the name of a claim, or the last part of a URL, as lower-case letters and digits."""
    return re.sub(r"[\W_]", "", claim.rstrip("/").rpartition("/")[2].casefold())


def _role_name(name: str) -> str:
    if not ROLE_NAME.fullmatch(name):
        raise invalid("is not a role name", "Use up to 64 lower-case letters, digits and hyphens.")
    return name


def _known_issuer(name: str, info: ValidationInfo) -> str:
    issuers = None if info.context is None else info.context["issuers"]
    if issuers is not None and name not in issuers:
        known = ", ".join(sorted(issuers)) or "none"
        raise invalid(f"{name} is no issuer of the settings", f"Use one of: {known}.")
    return name


def _reliable_claim(name: str) -> str:
    if _bare(name) in _UNRELIABLE_CLAIMS:
        raise invalid(
            f"{name} does not identify a person for certain",
            "Use subject, group or a claim that the issuer controls.",
        )
    return name


def _true(value: object) -> object:
    if value is not True:
        raise invalid("must be true", "Write anyone = true or leave it out.")
    return value


def _comparable(value: object) -> object:
    if not isinstance(value, str | int):
        raise invalid("must be text, a whole number or true or false", 'Write equals = "data".')
    return value


_Text = Annotated[str, Field(min_length=1)]
_RoleName = Annotated[str, AfterValidator(_role_name)]


class _Table(BaseModel):
    """What the tables of the file have in common."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class _Claim(_Table):
    """``claim = { name = "department", equals = "data" }``."""

    name: Annotated[_Text, AfterValidator(_reliable_claim)] = Field(
        description="the name of a claim that the issuer controls"
    )
    equals: Annotated[str | int | bool | None, BeforeValidator(_comparable)] = None
    contains: _Text | None = Field(default=None, description="a text in the claim's list of texts")

    @model_validator(mode="after")
    def _one_comparison(self) -> Self:
        if (self.equals is None) == (self.contains is None):
            raise invalid(
                "needs exactly one of equals and contains",
                "equals compares a value; contains looks into a list of texts.",
            )
        return self


class _Matcher(_Table):
    """One row of ``[[roles.<role>]]``."""

    issuer: Annotated[_Text, AfterValidator(_known_issuer)] = Field(
        description="the name of the issuer that says so, as in the settings"
    )
    group: _Text | None = Field(default=None, description="a group of the token, as text")
    subject: _Text | None = Field(default=None, description="the token's sub, as text")
    claim: _Claim | None = Field(
        default=None, description='written as { name = "department", equals = "data" }'
    )
    anyone: Annotated[bool, BeforeValidator(_true)] = False
    agent: bool = Field(
        default=False, description="true where the subject is software that acts for a person"
    )

    @model_validator(mode="after")
    def _some_condition(self) -> Self:
        conditional = any(one is not None for one in (self.group, self.subject, self.claim))
        if not conditional and not self.anyone:
            raise invalid(
                "has no condition",
                "Add group, subject or claim; or anyone = true for every subject of the issuer.",
            )
        if conditional and self.anyone:
            raise invalid(
                "cannot be combined with another condition", "Remove one of them.", key="anyone"
            )
        return self

    def matcher(self, role: str) -> Matcher:
        """Return the matcher for `role`."""
        claim = self.claim
        return Matcher(
            role=role,
            issuer=self.issuer,
            group=self.group,
            subject=self.subject,
            claim=None if claim is None else claim.name,
            equals=None if claim is None else claim.equals,
            contains=None if claim is None else claim.contains,
            agent=self.agent,
        )


def _some_role(roles: dict[str, object]) -> dict[str, object]:
    if not roles:
        raise invalid(
            "has no role", "Write [[roles.viewer]] and, below it, issuer and a condition."
        )
    return roles


class _File(_Table):
    """``roles.toml``."""

    roles: Annotated[dict[_RoleName, tuple[_Matcher, ...]], AfterValidator(_some_role)] = Field(
        description="the roles, as [[roles.viewer]] with issuer and a condition below it"
    )
