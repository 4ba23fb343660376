"""Loads ``policies/``: the ``*.cedar`` files of a directory as one set, with roles and catalogs.

A set loads completely or not at all. It is refused, with every problem at its line, when a
policy does not parse, has no ``@id`` of its own, is a template, does not validate against the
schema of the catalogs (a method, argument or attribute that does not exist, even behind ``has``; an
optional argument read without asking for it; a type error), names a role that ``roles.toml`` does
not have, or an upstream or a user's issuer that the settings do not have: a forbid on a mistyped
name would forbid nothing.

The hash names the set in every audit record. It covers the texts of the policies, of the roles and
of the catalogs, and which upstream has which catalog: all that decides. `PolicySet.files` has the
same texts, so that a report can say later what was allowed, without the files of that day.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import cedarpy
from cedarpy import pst

from proxy.catalog.loading import Catalog
from proxy.common.cedar_statements import Statement, invisible_characters, split_statements
from proxy.errors import ConfigError, Problem
from proxy.policy.context_reads import applies, attribute_paths
from proxy.policy.engine import Policy, PolicySet
from proxy.policy.roles import FILE as ROLES
from proxy.policy.roles import Roles, parse_roles
from proxy.policy.schema import (
    ATTRIBUTES,
    PERMISSIONS,
    Action,
    actions_of,
    cedar_schema,
)

UPSTREAMS = "upstreams.toml"
"""The name among a set's files of the one that no file on disk has: which catalog each upstream
has, as the settings say.
"""

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_NUMBER = re.compile(r"for policy `policy\d+`, ")


def load_policies(
    directory: Path,
    catalogs: Mapping[str, Catalog],
    *,
    unused: Iterable[Catalog] = (),
    issuers: Collection[str] | None = None,
) -> PolicySet:
    """Load and validate the policies of `directory` for the upstreams of `catalogs`, by name.

    `unused` are catalogs that no upstream has: policies may name their methods, so that one
    directory serves several gates. `issuers` is as in `parse_roles`. Raises `ConfigError`
    with every problem found.
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
        problems.append(
            Problem(
                directory.name,
                "has no policy",
                "Write at least one permit into a file that ends in .cedar.",
            )
        )
    problems += _repeated(policies)
    problems += _unknown_names(policies, roles, catalogs, issuers)
    every = [*catalogs.values(), *unused]
    problems += _same_name(every)
    try:
        actions = actions_of(every)
        problems += _validate(policies, cedar_schema(actions))
        problems += _unknown_attributes(policies, actions)
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


def _same_name(catalogs: Iterable[Catalog]) -> list[Problem]:
    """Name catalogs of which two have one name: records know a catalog by its name."""
    digests: dict[str, set[str]] = {}
    for catalog in catalogs:
        digests.setdefault(catalog.name, set()).add(catalog.digest)
    return [
        Problem(
            "catalogs",
            f"two files have the name {name!r}",
            "Give each catalog its own name, that of its file.",
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
            problems.append(
                Problem(
                    path.name,
                    f"cannot be read: {error.strerror}",
                    "Check the path and its permissions.",
                )
            )
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
        problems.append(
            Problem(
                f"{file}:{line}",
                "holds an invisible character",
                "Remove it: what is read must be what is meant.",
            )
        )
    policies = [_policy(file, statement, problems) for statement in split_statements(text)]
    return [policy for policy in policies if policy is not None]


def _policy(file: str, statement: Statement, problems: list[Problem]) -> Policy | None:
    def wrong(what: str, remedy: str) -> None:
        problems.append(Problem(f"{file}:{statement.line}", what, remedy))

    if not statement.ended:
        wrong(
            "the policy does not end", "End it with a semicolon; check that its quotes are closed."
        )
        return None
    try:
        found = cedarpy.policies_to_pst(statement.text)
    except ValueError as error:
        wrong(
            f"is no policy: {error}",
            "Fix the syntax: https://docs.cedarpolicy.com/policies/syntax-policy.html.",
        )
        return None
    if found.templates:
        wrong(
            "is a template",
            "Name the principal or the resource instead of ?principal or ?resource.",
        )
        return None
    trees = list(found.static_policies.values())
    if len(trees) != 1:
        wrong("is not one policy", "Write one permit or forbid up to the semicolon.")
        return None
    name = trees[0].annotations.get("id", "")
    if not _ID.fullmatch(name):
        wrong(
            "has no proper @id",
            'Write @id("what-it-does") before it: at most 64 of a-z, 0-9 and hyphens.',
        )
        return None
    return Policy(name, statement.text, file, statement.line, trees[0])


def _place(policy: Policy) -> str:
    return f"{policy.file}:{policy.line}"


def _repeated(policies: Sequence[Policy]) -> list[Problem]:
    counts = Counter(policy.id for policy in policies)
    return [
        Problem(
            _place(policy),
            f"@id {policy.id} stands more than once",
            "Give each policy an @id of its own: records name it.",
        )
        for policy in policies
        if counts[policy.id] > 1
    ]


def _unknown_names(
    policies: Sequence[Policy],
    roles: Roles | None,
    upstreams: Iterable[str],
    issuers: Iterable[str] | None,
) -> list[Problem]:
    problems = []
    for policy in policies:
        for entity in sorted(pst.entity_uids(policy.tree), key=str):
            kind = str(entity.type)
            if kind == "Role" and roles is not None and entity.id not in roles.names:
                what, known = (
                    f"names the role {entity.id}, which roles.toml does not have",
                    sorted(roles.names),
                )
            elif kind == "Scheduler" and entity.id not in upstreams:
                what, known = (
                    f"names the upstream {entity.id}, which the settings do not have",
                    sorted(upstreams),
                )
            elif kind == "User" and "|" not in entity.id:
                problems.append(
                    Problem(
                        _place(policy),
                        f"names the user {entity.id} without an issuer",
                        'Write User::"issuer|subject".',
                    )
                )
                continue
            elif (
                kind == "User"
                and issuers is not None
                and (issuer := entity.id.partition("|")[0]) not in issuers
            ):
                what, known = (
                    f"names a user of the issuer {issuer}, which the settings do not have",
                    sorted(issuers),
                )
            else:
                continue
            problems.append(
                Problem(_place(policy), what, f"Use one of: {', '.join(known) or 'none'}.")
            )
    return problems


def _unknown_attributes(policies: Sequence[Policy], actions: Mapping[str, Action]) -> list[Problem]:
    """Find attributes that do not exist.

    Cedar's validator accepts them behind ``has``, where they make a condition void.
    """
    problems = []
    for policy in policies:
        covered = [action for name, action in actions.items() if applies(policy.tree, name, action)]
        arguments = {argument for action in covered for argument in action.args}
        for path in sorted(set(attribute_paths(policy.tree.clauses))):
            match path:
                case ("context", "args", name, *_) if covered and name not in arguments:
                    what, known = (
                        f"the argument {name}, which no method that it covers has",
                        sorted(arguments),
                    )
                case (variable, name, *_) if name not in ATTRIBUTES.get(variable, ()):
                    what, known = (
                        f"the attribute {variable}.{name}, which there is not",
                        list(ATTRIBUTES.get(variable, ())),
                    )
                case _:
                    continue
            problems.append(
                Problem(
                    _place(policy),
                    f"{policy.id}: names {what}",
                    f"Policies see: {', '.join(known) or 'none'}.",
                )
            )
    return problems


def _validate(policies: Sequence[Policy], schema: str) -> list[Problem]:
    if not policies:
        return []
    # Cedar numbers the policies in the order of their text, so this is the order of the list.
    result = cedarpy.validate_policies(
        "\n".join(policy.text for policy in policies), cedarpy.Schema.from_str(schema)
    )
    numbered = {f"policy{number}": policy for number, policy in enumerate(policies)}
    problems: list[Problem] = []
    for error in result.errors:
        policy = numbered.get(error.policy_id)
        what = _NUMBER.sub("", error.error)
        place = _place(policy) if policy else "*.cedar"
        problems.append(
            Problem(place, f"{policy.id}: {what}" if policy else what, _remedy(what, policy))
        )
    if not problems and not result.validation_passed:
        problems.append(
            Problem(
                "*.cedar", "do not validate", "Validate the policies with Cedar's own command line."
            )
        )
    return sorted(
        problems, key=lambda problem: (problem.location.partition(":")[0], _line(problem.location))
    )


def _line(place: str) -> int:
    line = place.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _remedy(what: str, policy: Policy | None) -> str:
    if "unrecognized action" in what:
        return "Name a method of a catalog, or one of the permissions view, work, trigger, admin."
    if "optional attribute" in what:
        return "Test first that it exists: context.args has x && ..., or context has task && ..."
    if "not found" in what and "context" in what:
        return (
            "Name an argument of the method's catalog: a text, a truth value, a whole number or a"
            " list of texts."
        )
    if "applicable action" in what:
        if (
            policy is not None
            and isinstance(policy.tree.action, pst.ActionEq)
            and policy.tree.action.entity.id in PERMISSIONS
        ):
            return f'Write "in": action in Action::"{policy.tree.action.entity.id}".'
        return (
            "Use a User in a Role as principal, a method or permission as action, and a Scheduler"
            " as resource."
        )
    return "See https://docs.cedarpolicy.com/policies/validation.html."


def _hash(files: Mapping[str, str], catalogs: Iterable[Catalog]) -> str:
    """Return the hash of names and contents, each with its length before it.

    The lengths keep two sets from having the same bytes.
    """
    parts = {**files, **{f"catalogs/{catalog.name}.toml": catalog.digest for catalog in catalogs}}
    digest = hashlib.sha256()
    for name, content in sorted(parts.items()):
        for field in (name.encode(), content.encode()):
            digest.update(b"%d:" % len(field) + field)
    return "sha256:" + digest.hexdigest()
