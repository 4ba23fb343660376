"""What a set of policies must fulfil beyond its syntax, one problem for each cause.

Cedar's validator reports a cause once for each method that a policy covers, and what follows from
it too. Here an argument that is read without ``has`` is one problem that names the methods, and a
consequence is left out where its cause is reported.

Cedar's validator lets three mistakes pass that would make a condition void, so they are checked
here: an attribute that does not exist behind ``has``, and roles, upstreams and issuers that do not
exist. A forbid on a mistyped name would forbid nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import cedarpy
from cedarpy import pst

from proxy.errors import Problem
from proxy.policy.context_reads import applies, attribute_paths
from proxy.policy.engine import Policy
from proxy.policy.roles import FILE as ROLES
from proxy.policy.roles import Roles
from proxy.policy.schema import ATTRIBUTES, PERMISSIONS, Action, cedar_schema

# Methods that a problem lists by name.
_LISTED_METHODS = 3

_NUMBER = re.compile(r"for policy `policy\d+`, ")
_UNGUARDED = re.compile(
    r"(?:unable to guarantee safety of access to optional )?"
    r'attribute `(?P<path>[^`]+)` in context for Action::"(?P<method>[^"]+)"(?: not found)?'
)
_NO_ATTRIBUTE = re.compile(r"attribute `(?P<name>[^`]+)` on entity type `(?P<type>\w+)` not found")
_VARIABLES = {"User": "principal", "Scheduler": "resource"}
_NO_ACTION = "unable to find an applicable action"


def repeated_ids(policies: Sequence[Policy]) -> list[Problem]:
    """Return a problem for each policy whose ``@id`` another one has."""
    counts = Counter(policy.id for policy in policies)
    return [
        Problem(
            f"{policy.file}:{policy.line}",
            f"@id {policy.id} is not unique",
            "Give each policy an @id of its own, by which audit records name it.",
        )
        for policy in policies
        if counts[policy.id] > 1
    ]


def unknown_names(
    policies: Sequence[Policy],
    roles: Roles | None,
    upstreams: Iterable[str],
    issuers: Iterable[str] | None,
) -> list[Problem]:
    """Return a problem for each role, upstream and issuer that does not exist.

    Without `roles`, or without `issuers`, those names are not checked.
    """
    problems = []
    for policy in policies:
        for entity in sorted(pst.entity_uids(policy.tree), key=str):
            kind = str(entity.type)
            if kind == "Role" and roles is not None and entity.id not in roles.names:
                message = f"names the role {entity.id}, which {ROLES} does not have"
                known = sorted(roles.names)
            elif kind == "Scheduler" and entity.id not in upstreams:
                message = f"names the upstream {entity.id}, which the settings do not have"
                known = sorted(upstreams)
            elif kind == "User" and "|" not in entity.id:
                message = f"names the user {entity.id} without an issuer"
                problems.append(_problem(policy, message, 'Write User::"issuer|subject".'))
                continue
            elif (
                kind == "User"
                and issuers is not None
                and (issuer := entity.id.partition("|")[0]) not in issuers
            ):
                message = f"names a user of the issuer {issuer}, which the settings do not have"
                known = sorted(issuers)
            else:
                continue
            hint = f"Use one of: {', '.join(known) or 'none'}."
            problems.append(_problem(policy, message, hint))
    return problems


def schema_problems(policies: Sequence[Policy], actions: Mapping[str, Action]) -> list[Problem]:
    """Return the problems of the policies under the schema of `actions`, in their order."""
    found: list[Problem] = []
    is_valid, errors = _cedar_errors(policies, cedar_schema(actions))
    for policy, texts in zip(policies, errors, strict=True):
        unknown = dict(_unknown_attributes(policy, actions))
        found += unknown.values()
        found += _explained(policy, texts, unknown)
    if not is_valid and not found:  # pragma: no cover (Cedar names a policy in each of its errors)
        hint = "Validate the policies with Cedar's own command line."
        found.append(Problem("*.cedar", "the policies do not validate", hint))
    return found


def _unknown_attributes(
    policy: Policy, actions: Mapping[str, Action]
) -> Iterator[tuple[tuple[str, ...], Problem]]:
    """Yield the attribute paths that no covered method has, each with its problem."""
    covered = [action for name, action in actions.items() if applies(policy.tree, name, action)]
    arguments = {argument for action in covered for argument in action.args}
    for path in sorted(set(attribute_paths(policy.tree.clauses))):
        match path:
            case ("context", "args", name, *_) if covered and name not in arguments:
                message = f"names the argument {name}, which no method that it covers has"
                known = sorted(arguments)
            case (variable, name, *_) if name not in ATTRIBUTES.get(variable, ()):
                message = f"names the attribute {variable}.{name}, which does not exist"
                known = list(ATTRIBUTES.get(variable, ()))
            case _:
                continue
        yield path, _problem(policy, message, f"Policies see: {', '.join(known) or 'none'}.")


def _cedar_errors(policies: Sequence[Policy], schema: str) -> tuple[bool, list[list[str]]]:
    """Return whether Cedar finds the policies valid, and the errors of each, every text once."""
    text = "\n".join(policy.text for policy in policies)
    result = cedarpy.validate_policies(text, cedarpy.Schema.from_str(schema))
    errors: dict[str, set[str]] = {}
    for error in result.errors:
        errors.setdefault(error.policy_id, set()).add(_NUMBER.sub("", error.error))
    # Cedar numbers the policies in the order of their text.
    numbers = range(len(policies))
    return result.validation_passed, [sorted(errors.get(f"policy{n}", ())) for n in numbers]


def _explained(
    policy: Policy, errors: Sequence[str], unknown: Mapping[tuple[str, ...], Problem]
) -> Iterator[Problem]:
    """Yield one problem for each cause among the `errors` of a policy that is not in `unknown`."""
    unguarded: dict[tuple[str, ...], list[str]] = {}
    others = []
    for error in errors:
        if found := _UNGUARDED.fullmatch(error):
            path = ("context", *found["path"].split("."))
            unguarded.setdefault(path, []).append(found["method"])
        elif found := _NO_ATTRIBUTE.fullmatch(error):
            if (_VARIABLES.get(found["type"], ""), found["name"]) not in unknown:
                others.append(error)
        else:
            others.append(error)
    for path, methods in sorted(unguarded.items()):
        if path not in unknown:
            yield _problem(policy, *_unguarded_read(path, sorted(methods)))
    # That no action is applicable follows from a name that does not exist, another of the errors.
    causes = [error for error in others if not error.startswith(_NO_ACTION)]
    for error in causes or others:
        yield _problem(policy, error, _hint(error, policy))


def _unguarded_read(path: tuple[str, ...], methods: Sequence[str]) -> tuple[str, str]:
    """Return message and hint for an argument that is read though a call may lack it."""
    listed = ", ".join(methods[:_LISTED_METHODS])
    more = f" and {rest} more" if (rest := len(methods) - _LISTED_METHODS) > 0 else ""
    full = ".".join(path)
    message = f"reads {full}, which a call of {listed}{more} may lack"
    return message, f"Ask for it first: {'.'.join(path[:-1])} has {path[-1]} && {full} ..."


def _hint(error: str, policy: Policy) -> str:
    if "unrecognized action" in error:
        names = ", ".join(PERMISSIONS)
        return f"Name a method of a catalog in policies/catalogs, or a permission: {names}."
    if error.startswith(_NO_ACTION):
        action = policy.tree.action
        if isinstance(action, pst.ActionEq) and action.entity.id in PERMISSIONS:
            return f'Write "in" for a permission: action in Action::"{action.entity.id}".'
        return "Write principal in a Role, action a method or permission, resource a Scheduler."
    return "See https://docs.cedarpolicy.com/policies/validation.html."


def _problem(policy: Policy, message: str, hint: str) -> Problem:
    return Problem(f"{policy.file}:{policy.line}", f"{policy.id}: {message}", hint)
