"""The Cedar schema of the catalogs: the names that a policy can use, and their types.

    entity User in [Role]                  id "issuer|subject"; issuer, subject, groups
    entity Scheduler                       id: the upstream's name in the settings; protocol
    action view, work, trigger, admin      the permissions
    action <method> in [<permission>]      one for each method of any catalog
    context { agent, task?, args { ... } } args: the arguments with a policy type, each optional

The permissions have no context of their own. So Cedar checks a policy on a permission against every
method in it, and a policy that reads an argument must name the methods that it does so for.
Catalogs share one space of actions: a method of two catalogs must have the same permission and the
same argument types in both.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from proxy.catalog.model import Catalog, Method
from proxy.catalog.types import PolicyType
from proxy.errors import ConfigError, Problem
from proxy.model import Permission

PERMISSIONS: tuple[str, ...] = get_args(Permission)
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "principal": ("issuer", "subject", "groups"),
    "resource": ("protocol",),
    "context": ("agent", "task", "args"),
}
"""The attributes of each variable that a policy can name."""
_CEDAR: Mapping[str, str] = {
    "string": "String",
    "boolean": "Bool",
    "integer": "Long",
    "strings": "Set<String>",
}
_ENTITIES = """\
entity Role;
entity User in [Role] { issuer: String, subject: String, groups: Set<String> };
entity Scheduler { protocol: String };
"""


class Action:
    """A method as an action: its permission, and the types of the arguments that policies see."""

    __slots__ = ("args", "permission")

    def __init__(self, method: Method) -> None:
        self.permission: Permission = method.permission
        self.args: dict[str, PolicyType] = {
            a.name: a.policy_type for a in method.arguments if a.policy_type is not None
        }


def actions_of(catalogs: Sequence[Catalog]) -> dict[str, Action]:
    """Return every action of the catalogs by name.

    Raises:
        ConfigError: two catalogs differ in a method, or a method has the name of a permission.

    """
    actions: dict[str, Action] = {}
    first: dict[str, str] = {}
    problems: list[Problem] = []
    for catalog in {catalog.name: catalog for catalog in catalogs}.values():
        for name, method in catalog.methods.items():
            location = f"catalogs/{catalog.name}.toml: methods.{name}"
            action = Action(method)
            if name in PERMISSIONS:
                problems.append(
                    Problem(
                        location,
                        "has the name of a permission",
                        "Rename it: view, work, trigger and admin are taken.",
                    )
                )
            elif name not in actions:
                actions[name], first[name] = action, catalog.name
            elif (actions[name].permission, actions[name].args) != (action.permission, action.args):
                message = f"differs from the method of that name in catalogs/{first[name]}.toml"
                problems.append(
                    Problem(
                        location,
                        message,
                        "Give both the same permission and argument types, or rename one.",
                    )
                )
    if problems:
        raise ConfigError(problems)
    return actions


def cedar_schema(actions: Mapping[str, Action]) -> str:
    """Return the schema in Cedar's own syntax.

    The names are safe to quote, since catalogs restrict their characters. A permission that no
    method has gets an action of a name that no method can have: Cedar refuses a policy that applies
    to no action, and the shipped policies grant each permission.
    """
    lines = [_ENTITIES, f"action {', '.join(PERMISSIONS)};\n"]
    used = {action.permission for action in actions.values()}
    lines += [
        f'action "no {permission}" in [Action::"{permission}"] appliesTo {{ principal: [User], '
        "resource: [Scheduler], context: { agent: Bool, task?: String, args: {} } };\n"
        for permission in PERMISSIONS
        if permission not in used
    ]
    for name, action in sorted(actions.items()):
        args = ", ".join(
            f'"{argument}"?: {_CEDAR[policy_type]}' for argument, policy_type in action.args.items()
        )
        lines.append(
            f'action "{name}" in [Action::"{action.permission}"] appliesTo {{ principal: [User], '
            f"resource: [Scheduler], "
            f"context: {{ agent: Bool, task?: String, args: {{ {args} }} }} }};\n"
        )
    return "".join(lines)
