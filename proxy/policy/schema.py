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
from typing import Literal, Protocol, TypeAlias, get_args

from proxy.errors import ConfigError, Problem
from proxy.model import Permission

Plain: TypeAlias = Literal["string", "boolean", "integer", "strings"]
CLASSES: tuple[str, ...] = get_args(Permission)
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


class ArgumentLike(Protocol):
    """What the schema needs of an argument of `proxy.catalog.loading`; that module is beside this
    one, so not imported.
    """

    @property
    def name(self) -> str:
        """Give the argument's name."""

    @property
    def plain(self) -> Plain | None:
        """Give the type that a policy sees, None when it sees nothing."""


class MethodLike(Protocol):
    """What the schema needs of a method."""

    @property
    def permission(self) -> Permission:
        """Give the method's class."""

    @property
    def arguments(self) -> Sequence[ArgumentLike]:
        """Give the method's arguments in order."""


class CatalogLike(Protocol):
    """What the policies need of a catalog."""

    @property
    def name(self) -> str:
        """Give the catalog's name."""

    @property
    def protocol(self) -> str:
        """Give the name of the wire protocol."""

    @property
    def digest(self) -> str:
        """Give the SHA-256 of the catalog's file in hex."""

    @property
    def text(self) -> str:
        """Give the text of the catalog's file."""

    @property
    def methods(self) -> Mapping[str, MethodLike]:
        """Give the methods by name."""


class Action:
    """A method as an action: its class, and the arguments a policy can read with their plain types."""

    __slots__ = ("args", "permission")

    def __init__(self, method: MethodLike) -> None:
        """Take a method of a catalog."""
        self.permission: Permission = method.permission
        self.args: dict[str, Plain] = {
            a.name: a.plain for a in method.arguments if a.plain is not None
        }


def actions_of(catalogs: Sequence[CatalogLike]) -> dict[str, Action]:
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
            if name in CLASSES:
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
    lines = [_ENTITIES, f"action {', '.join(CLASSES)};\n"]
    for name, action in sorted(actions.items()):
        args = ", ".join(
            f'"{argument}"?: {_CEDAR[plain]}' for argument, plain in action.args.items()
        )
        lines.append(
            f'action "{name}" in [Action::"{action.permission}"] appliesTo {{ principal: [User], resource: [Scheduler], '
            f"context: {{ agent: Bool, task?: String, args: {{ {args} }} }} }};\n"
        )
    return "".join(lines)
