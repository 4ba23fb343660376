"""The Cedar schema, made from the catalogs: what a policy can name, and what type everything has.

    entity User in [Role]   id "issuer|subject"; attributes issuer, subject, groups entity Scheduler
    id: the upstream's name in the settings; attribute protocol action view, work, trigger, admin
    the classes action <method> in [<its class>]           one per method of any catalog context {
    agent, task?, args { ... } }     args: the method's arguments that have a plain type, each
    optional

The classes have no context of their own: then Cedar checks a policy on a class against every method
in it, and a policy that reads an argument must say for which methods it does. Catalogs share one
space of actions; a method that two catalogs have must be of one class and have the same plain
arguments in both.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from proxy.catalog.loading import Catalog, Method
from proxy.catalog.types import PolicyType
from proxy.errors import ConfigError, Problem
from proxy.model import Permission

PERMISSIONS: tuple[str, ...] = get_args(Permission)
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "principal": ("issuer", "subject", "groups"),
    "resource": ("protocol",),
    "context": ("agent", "task", "args"),
}
"""What a policy can name of each variable."""
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
    """A method as an action: its class, and the arguments a policy can read with their plain types."""

    __slots__ = ("args", "permission")

    def __init__(self, method: Method) -> None:
        """Take a method of a catalog."""
        self.permission: Permission = method.permission
        self.args: dict[str, PolicyType] = {
            a.name: a.policy_type for a in method.arguments if a.policy_type is not None
        }


def actions_of(catalogs: Sequence[Catalog]) -> dict[str, Action]:
    """Give every action of the catalogs by name. Raises `ConfigError` where two catalogs do not
    agree on a method.
    """
    actions: dict[str, Action] = {}
    origin: dict[str, str] = {}
    problems: list[Problem] = []
    for catalog in {catalog.name: catalog for catalog in catalogs}.values():
        for name, method in catalog.methods.items():
            place = f"catalogs/{catalog.name}.toml: methods.{name}"
            action = Action(method)
            if name in PERMISSIONS:
                problems.append(
                    Problem(
                        place,
                        "has the name of a class",
                        "A method cannot be called view, work, trigger or admin.",
                    )
                )
            elif name not in actions:
                actions[name], origin[name] = action, catalog.name
            elif (actions[name].permission, actions[name].args) != (action.permission, action.args):
                what = f"differs from the method of that name in catalogs/{origin[name]}.toml"
                problems.append(
                    Problem(
                        place,
                        what,
                        "Give both the same class and the same argument types, or one another name.",
                    )
                )
    if problems:
        raise ConfigError(problems)
    return actions


def cedar_schema(actions: Mapping[str, Action]) -> str:
    """Write the schema in Cedar's own syntax. The names are safe to quote: catalogs restrict their
    characters.
    """
    lines = [_ENTITIES, f"action {', '.join(PERMISSIONS)};\n"]
    for name, action in sorted(actions.items()):
        args = ", ".join(
            f'"{argument}"?: {_CEDAR[plain]}' for argument, plain in action.args.items()
        )
        lines.append(
            f'action "{name}" in [Action::"{action.permission}"] appliesTo {{ principal: [User], resource: [Scheduler], '
            f"context: {{ agent: Bool, task?: String, args: {{ {args} }} }} }};\n"
        )
    return "".join(lines)
