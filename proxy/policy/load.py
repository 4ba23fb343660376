"""The loader of ``policies/``: all ``*.cedar`` files of a directory as one set.

``roles.toml`` and the catalogs of the upstreams belong to the set. A set loads completely or not at
all. It is refused, with the file and line of every problem, when a policy

- does not parse, has no ``@id`` of its own, or is a template;
- does not validate against the schema of the catalogs: a method, argument or attribute that does
  not exist, even behind ``has``; an optional argument that is read without ``has``; a type error;
- names a role that ``roles.toml`` does not have, or an upstream or issuer that the settings do not
  have;
- makes the work of a decision exceed a limit (`proxy.policy.work`).

The hash names the set in every audit record. It covers everything that decides: the texts of the
policies, of the roles and of the catalogs, and which upstream has which catalog. `PolicySet.files`
has the same texts, so that a snapshot of them can tell later what was allowed.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import cedarpy

from proxy.catalog.model import Catalog
from proxy.common.cedar_statements import Statement, invisible_characters, split_statements
from proxy.errors import ConfigError, Problem
from proxy.policy.checks import repeated_ids, schema_problems, unknown_names
from proxy.policy.engine import Policy, PolicySet
from proxy.policy.roles import FILE as ROLES
from proxy.policy.roles import Roles, parse_roles
from proxy.policy.schema import actions_of
from proxy.policy.work import excess

# The name among `PolicySet.files` of the text that no file on disk has: the catalog of each
# upstream, from the settings.
UPSTREAMS = "upstreams.toml"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def load_policies(
    directory: Path,
    catalogs: Mapping[str, Catalog],
    *,
    unused: Iterable[Catalog] = (),
    issuers: Collection[str] | None = None,
) -> PolicySet:
    """Load and validate the policies of `directory` for the upstreams of `catalogs`, by name.

    `unused` are catalogs that no upstream has. Policies may name their methods, so that one
    directory serves several instances. `issuers` is as in `parse_roles`.

    Raises:
        ConfigError: with every problem found.

    """
    problems: list[Problem] = []
    files = _read(directory, problems)
    roles = _roles(files.get(ROLES), issuers, problems)
    policies = [
        policy
        for name, text in files.items()
        if name != ROLES
        for policy in _parse(name, text, problems)
    ]
    if not policies and not problems:
        hint = "Write at least one permit into a file that ends in .cedar."
        problems.append(Problem(directory.name, "has no policy", hint))
    problems += repeated_ids(policies)
    problems += unknown_names(policies, roles, catalogs, issuers)
    every = [*catalogs.values(), *unused]
    problems += _catalogs_of_one_name(every)
    try:
        actions = actions_of(every)
        problems += schema_problems(policies, actions)
        problems += excess(policies, actions)
    except ConfigError as error:
        problems += error.problems
    if problems or roles is None:
        raise ConfigError(problems)
    files[UPSTREAMS] = "".join(
        f"{json.dumps(name)} = {json.dumps(catalog.name)}\n"
        for name, catalog in sorted(catalogs.items())
    )
    texts = {f"catalogs/{catalog.name}.toml": catalog.text for catalog in every}
    return PolicySet(policies, catalogs, roles, _hash(files, every), files={**files, **texts})


def _catalogs_of_one_name(catalogs: Iterable[Catalog]) -> list[Problem]:
    """Return a problem for each name of two catalogs: records and snapshots know them by name."""
    digests: dict[str, set[str]] = {}
    for catalog in catalogs:
        digests.setdefault(catalog.name, set()).add(catalog.digest)
    return [
        Problem(
            "catalogs",
            f"two files have the name {name!r}",
            "Give each catalog the name of its file.",
        )
        for name, found in sorted(digests.items())
        if len(found) > 1
    ]


def _read(directory: Path, problems: list[Problem]) -> dict[str, str]:
    """Read roles.toml and every ``*.cedar`` file, in the order of their names."""
    texts: dict[str, str] = {}
    paths = sorted([*directory.glob("*.cedar"), directory / ROLES], key=lambda path: path.name)
    for path in paths:
        try:
            texts[path.name] = path.read_bytes().decode()
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            problems.append(Problem(path.name, message, "Check the path and its permissions."))
        except UnicodeDecodeError:
            problems.append(Problem(path.name, "is not UTF-8", "Save the file as UTF-8."))
    return texts


def _roles(
    text: str | None, issuers: Collection[str] | None, problems: list[Problem]
) -> Roles | None:
    if text is None:
        return None
    try:
        return parse_roles(text, issuers)
    except ConfigError as error:
        problems += error.problems
        return None


def _parse(file: str, text: str, problems: list[Problem]) -> list[Policy]:
    for line in invisible_characters(text):
        hint = "Remove it, so that the policy reads as it is evaluated."
        problems.append(Problem(f"{file}:{line}", "holds an invisible character", hint))
    policies = [_policy(file, statement, problems) for statement in split_statements(text)]
    return [policy for policy in policies if policy is not None]


def _policy(file: str, statement: Statement, problems: list[Problem]) -> Policy | None:
    """Parse one statement; add a problem and return None where it is not a policy of ours."""
    try:
        return parse_statement(file, statement)
    except NotAPolicy as error:
        problems.append(Problem(f"{file}:{statement.line}", error.message, error.hint))
        return None


class NotAPolicy(Exception):  # noqa: N818  (it becomes a `Problem`)
    """A statement that is not one named policy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def parse_statement(file: str, statement: Statement) -> Policy:
    """Return the policy in one statement of `file`. Raises `NotAPolicy`."""
    if not statement.ended:
        raise NotAPolicy(
            "the policy has no end",
            "End it with a semicolon, and check that its quotes are closed.",
        )
    try:
        found = cedarpy.policies_to_pst(statement.text)
    except ValueError as error:
        raise NotAPolicy(
            f"is not a policy: {error}",
            "Fix the syntax; see https://docs.cedarpolicy.com/policies/syntax-policy.html.",
        ) from None
    if found.templates:
        raise NotAPolicy(
            "is a template",
            "Name the principal or the resource instead of ?principal or ?resource.",
        )
    trees = list(found.static_policies.values())
    if len(trees) != 1:  # pragma: no cover (a text up to one semicolon is one policy, or none)
        raise NotAPolicy("is not one policy", "Write one permit or forbid up to the semicolon.")
    name = trees[0].annotations.get("id", "")
    if not _ID.fullmatch(name):
        raise NotAPolicy(
            "has no valid @id",
            'Write @id("what-it-does") before it: up to 64 lower-case letters, digits, hyphens.',
        )
    return Policy(name, statement.text, file, statement.line, trees[0])


def _hash(files: Mapping[str, str], catalogs: Iterable[Catalog]) -> str:
    """Hash names and contents, each after its length, so that no two sets give the same bytes."""
    parts = {**files, **{f"catalogs/{catalog.name}.toml": catalog.digest for catalog in catalogs}}
    digest = hashlib.sha256()
    for name, content in sorted(parts.items()):
        for field in (name.encode(), content.encode()):
            digest.update(b"%d:" % len(field) + field)
    return "sha256:" + digest.hexdigest()
