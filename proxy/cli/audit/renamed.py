"""Old names of audit verbs and options, refused with the new name.

A script that uses an old name must stop with a usage error (exit code 2) and not with an answer
that reads as another question's. Typer carries click within it or depends on it, by version, so the
contexts here have no type.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

VERBS = {"match": "find-secret", "make": "generate"}
OPTIONS = {
    "--at": "--checkpoint",
    "--class": "--permission",
    "--form": "--format",
    "--from": "--since-checkpoint",
    "--keep": "--save-checkpoint",
    "--local": "--local-time",
    "--value": "the argument VALUE",
}


class Verb(TyperCommand):
    """A verb that refuses old names of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`; raise a usage error on an old option."""
        taken = {name for option in self.params for name in option.opts}
        for arg in args:
            if arg == "--":
                break
            name = arg.partition("=")[0]
            if name in OPTIONS and name not in taken:
                ctx.fail(f"{name} is renamed to {OPTIONS[name]}.")
        return super().parse_args(ctx, args)


class VerbGroup(TyperGroup):
    """A group that refuses old names of its verbs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb that `args` name; raise a usage error on an old name."""
        if args[0] in VERBS and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"{args[0]} is renamed to {VERBS[args[0]]}.")
        return super().resolve_command(ctx, args)
