"""Who holds which role: ``policies/roles.toml``, by issuer and by what the issuer says of a
subject.

    [[roles.viewer]] issuer = "okta"            # always: no matcher speaks for all issuers group =
    "data-viewers"     # a group, or subject, claim or anyone; several in one matcher must all hold

A role is granted when any of its matchers holds. Identity is issuer and subject: claims that a
person can choose or that pass from one person to the next (e-mail, display name) are refused as
conditions. A matcher without a condition is refused too, so that a forgotten line never means
everyone.
"""

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from proxy.errors import ConfigError, Problem

ROLE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MATCHER_KEYS = frozenset(("issuer", "group", "subject", "claim", "anyone", "agent"))
_CLAIM_KEYS = frozenset(("name", "equals", "contains"))
_NO_IDENTITY = frozenset(
    (
        *(
            "email",
            "emailaddress",
            "mail",
            "name",
            "displayname",
            "preferredusername",
            "username",
            "uniquename",
        ),
        *(
            "upn",
            "userprincipalname",
            "nickname",
            "givenname",
            "familyname",
            "surname",
            "middlename",
        ),
        *("profile", "picture", "phonenumber"),
    )
)
"""Claims that name no one for certain: users edit them, and addresses are given to the next person.

In small letters and without signs, as `_bare` makes them: issuers write them in many ways.
"""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One way to hold `role`: every condition that is not None holds, for a token of `issuer`.

    `equals` compares with a claim of the very same type, never with a member of a list; `contains`
    asks whether a list of strings has the text. `agent` marks whoever it matches as software acting
    for a person.
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
        """Whether the matcher holds for a subject of its issuer."""
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
    """The roles of every identity. `names` are all roles there are, whoever holds them."""

    def __init__(
        self, matchers: Sequence[Matcher], names: Collection[str], groups_claims: Mapping[str, str]
    ) -> None:
        """Take the matchers; `groups_claims` says per issuer in which claim groups stand ("groups"
        unless given).
        """
        self.names = frozenset(names)
        self.matchers = tuple(matchers)
        self._groups_claims = dict(groups_claims)

    def of(
        self, issuer_name: str, subject: str, claims: Mapping[str, object]
    ) -> tuple[tuple[str, ...], bool]:
        """Give the roles of a verified subject, sorted, and whether one of them came with the mark
        of an agent.
        """
        claim = claims.get(self._groups_claims.get(issuer_name, "groups"))
        listed = [claim] if isinstance(claim, str) else claim
        groups = (
            {group for group in listed if isinstance(group, str)}
            if isinstance(listed, list)
            else set()
        )
        held = [
            m for m in self.matchers if m.issuer == issuer_name and m.holds(subject, groups, claims)
        ]
        return tuple(sorted({m.role for m in held})), any(m.agent for m in held)


def parse_roles(text: str, groups_claims: Mapping[str, str] | None = None) -> Roles:
    """Read the `text` of roles.toml. `groups_claims` has each issuer of the settings by name, and
    the claim its groups stand in.

    Without it, issuer names are not checked. Raises `ConfigError` with every problem of the text.
    """
    place = "roles.toml"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            [Problem(place, f"is not TOML: {error}", "Mend the syntax at that line.")]
        ) from None
    reader = _Reader(place, groups_claims)
    matchers, names = reader.read(document)
    if reader.problems:
        raise ConfigError(reader.problems)
    return Roles(matchers, names, groups_claims or {})


def _bare(claim: str) -> str:
    """Reduce the name of a claim, or the last part of one that is a URL, to small letters and
    digits.
    """
    return re.sub(r"[\W_]", "", claim.rstrip("/").rpartition("/")[2].casefold())


class _Reader:
    def __init__(self, place: str, issuers: Collection[str] | None) -> None:
        self.place = place
        self.issuers = issuers
        self.problems: list[Problem] = []

    def read(self, document: Mapping[str, object]) -> tuple[list[Matcher], list[str]]:
        self._only("", document, ("roles",))
        roles = document.get("roles")
        if not isinstance(roles, dict) or not roles:
            self._wrong(
                "roles",
                "has no role",
                'Write [[roles.viewer]] and, below it, issuer = "..." and group = "...".',
            )
            return [], []
        matchers: list[Matcher] = []
        for role, entries in roles.items():
            if not ROLE_NAME.fullmatch(role):
                self._wrong(
                    f"roles.{role}",
                    "is not a role name",
                    "Use up to 64 lower-case letters, digits and hyphens.",
                )
            if not isinstance(entries, list):
                self._wrong(
                    f"roles.{role}",
                    "must be a list of tables",
                    f"Write [[roles.{role}]] with two brackets.",
                )
                continue
            for number, entry in enumerate(entries):
                where = f"roles.{role}[{number}]"
                if isinstance(entry, dict):
                    matchers.append(self._matcher(role, where, entry))
                else:
                    self._wrong(
                        where, "must be a table", f"Write [[roles.{role}]] and its keys below it."
                    )
        return matchers, list(roles)

    def _matcher(self, role: str, where: str, entry: Mapping[str, object]) -> Matcher:
        self._only(where, entry, _MATCHER_KEYS)
        issuer = self._text(where, entry, "issuer") or ""
        if "issuer" not in entry:
            self._wrong(
                f"{where}.issuer", "is missing", "Name the issuer of the settings that says so."
            )
        elif issuer and self.issuers is not None and issuer not in self.issuers:
            known = ", ".join(sorted(self.issuers)) or "none"
            self._wrong(
                f"{where}.issuer", f"{issuer} is no issuer of the settings", f"Use one of: {known}."
            )
        if not entry.keys() & {"group", "subject", "claim", "anyone"}:
            self._wrong(
                where,
                "has no condition",
                "Add group, subject or claim; or anyone = true if all of the issuer's are meant.",
            )
        name, equals, contains = self._claim(f"{where}.claim", entry.get("claim"))
        if self._flag(where, entry, "anyone") and entry.keys() & {"group", "subject", "claim"}:
            self._wrong(
                f"{where}.anyone", "stands beside another condition", "Leave out one of them."
            )
        return Matcher(
            role=role,
            issuer=issuer,
            group=self._text(where, entry, "group"),
            subject=self._text(where, entry, "subject"),
            claim=name,
            equals=equals,
            contains=contains,
            agent=self._flag(where, entry, "agent"),
        )

    def _claim(
        self, where: str, claim: object
    ) -> tuple[str | None, str | int | bool | None, str | None]:
        if claim is None:
            return None, None, None
        if not isinstance(claim, dict):
            self._wrong(
                where, "must be a table", 'Write claim = { name = "department", equals = "data" }.'
            )
            return None, None, None
        self._only(where, claim, _CLAIM_KEYS)
        name = self._text(where, claim, "name")
        if name is None and "name" not in claim:
            self._wrong(f"{where}.name", "is missing", "Name the claim.")
        elif name is not None and _bare(name) in _NO_IDENTITY:
            self._wrong(
                f"{where}.name",
                f"{name} names no one for certain",
                "Use subject, group or a claim that the issuer controls.",
            )
        equals = claim.get("equals")
        if ("equals" in claim) == ("contains" in claim):
            self._wrong(
                where,
                "needs exactly one of equals and contains",
                "equals compares a value; contains looks into a list of texts.",
            )
        if equals is not None and not isinstance(equals, (str, int)):
            self._wrong(
                f"{where}.equals",
                "must be text, a whole number or true or false",
                'Write equals = "data".',
            )
            equals = None
        return name, equals, self._text(where, claim, "contains")

    def _text(self, where: str, table: Mapping[str, object], key: str) -> str | None:
        value = table.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        self._wrong(f"{where}.{key}", "must be text", f'Write {key} = "...".')
        return None

    def _flag(self, where: str, table: Mapping[str, object], key: str) -> bool:
        value = table.get(key, False)
        if key in table and value is not True and not (key == "agent" and value is False):
            self._wrong(f"{where}.{key}", "must be true", f"Write {key} = true or leave it out.")
        return value is True

    def _only(self, where: str, table: Mapping[str, object], keys: Collection[str]) -> None:
        for key in table:
            if key not in keys:
                self._wrong(
                    f"{where}.{key}".removeprefix("."),
                    "is not a known key",
                    f"Use only {', '.join(sorted(keys))}.",
                )

    def _wrong(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(f"{self.place}: {where}", what, remedy))
