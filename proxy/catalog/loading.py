"""Catalogs from TOML: the files of ``policies/catalogs``.

    name = "luigi"
    protocol = "luigi"
    [methods.ping]
    permission = "work"
    help = "Keep the calling worker alive."
    arguments = [{ name = "worker", type = "worker-id", required = true }]

A method that no catalog names does not exist: it is denied, whatever the policies say. The comment
at the top of ``policies/catalogs/luigi.toml`` explains every key.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from proxy.catalog.model import ARGUMENT_NAME, UNCLASSIFIED, Argument, Catalog, Method, WireProtocol
from proxy.catalog.types import TEXT_TYPES, TYPES
from proxy.common.toml_lines import Loc
from proxy.common.validation import Locate, freeze, in_file, invalid, parse_toml, problems_of
from proxy.errors import ConfigError, Problem

_METHOD_NAME = re.compile(r"[A-Za-z0-9_.:/]{1,255}")
_CATALOG_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

RENAMED_KEYS = {
    "class": "permission",
    "fresh": "no_cache",
    "tasks": "related_tasks",
    "each_extra": "extra_type",
    "extra": "allow_extra",
    "starts_with": "must_start_with",
}
"""Keys of a method's table, old to new. ``extra`` is a key of the catalog too."""
RENAMED_TYPES = {
    "amount": "unsigned",
    "strings": "string-list",
    "worker": "worker-id",
    "listed-worker": "suffixed-worker-id",
    "markup-free": "no-markup",
}
"""Argument types, old to new."""


def load_catalog(path: Path, *, accept_old_names: bool = False) -> Catalog:
    """Load one catalog file. `accept_old_names` is for files that an earlier version recorded.

    Raises:
        ConfigError: with every problem of the file.

    """
    # As the reader knows the file: from the policies directory on.
    file = "/".join(path.parts[-3:]) if path.is_absolute() else path.as_posix()
    try:
        raw = path.read_bytes()
    except OSError as error:
        problem = Problem(
            file, f"cannot be read: {error.strerror}", "Check the path and its permissions."
        )
        raise ConfigError([problem]) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ConfigError([Problem(file, "is not UTF-8", "Save the file as UTF-8.")]) from None
    digest = hashlib.sha256(raw).hexdigest()
    return parse_catalog(text, file, digest, accept_old_names=accept_old_names)


def parse_catalog(
    text: str, file: str, digest: str = "", *, accept_old_names: bool = False
) -> Catalog:
    """Parse the `text` of a catalog `file`, whose SHA-256 is `digest` in hex.

    Raises:
        ConfigError: with every problem of the text.

    """
    tables = parse_toml(text, file)
    locate = in_file(file, text)
    problems = _rename(tables, locate)
    if accept_old_names:
        problems.clear()
    try:
        table = _Catalog.model_validate(freeze(tables))
    except ValidationError as error:
        hint = "See the comment at the top of policies/catalogs/luigi.toml."
        problems += problems_of(error, _Catalog, locate, default_hint=hint)
    else:
        if not problems and not accept_old_names:
            problems = _without_effect(table, locate)
    if problems:
        raise ConfigError(problems)
    methods = {
        name: method.method(name, allow_extra=table.allow_extra, shared=table.protocol == "luigi")
        for name, method in table.methods.items()
        if method.permission != UNCLASSIFIED
    }
    return Catalog(
        table.name,
        table.protocol,
        MappingProxyType(methods),
        digest,
        text,
        frozenset(table.methods.keys() - methods.keys()),
    )


def _without_effect(table: "_Catalog", locate: Locate) -> list[Problem]:
    """Return a problem for each key that would be read and then have no effect."""
    return [
        Problem(locate(("methods", name, key)), message, hint)
        for name, method in table.methods.items()
        for key, message, hint in _idle_keys(name, method)
    ]


def _idle_keys(name: str, method: "_Method") -> Iterator[tuple[str, str, str]]:
    """Yield each key of a method that would have no effect: why, and what to do."""
    texts = {argument.name for argument in method.arguments if argument.type in TEXT_TYPES}
    named = {
        "task": method.task,
        "worker": () if method.worker is None else (method.worker,),
        "must_start_with": (*method.must_start_with, *method.must_start_with.values()),
    }
    for key, arguments in named.items():
        for argument in arguments:
            if argument not in texts:
                yield key, f"{argument} is never a text", "Name an argument that holds a text."
    if method.heartbeat:
        if method.worker is None:
            yield (
                "heartbeat",
                "needs a worker",
                "Set worker to the argument that names the calling worker.",
            )
        elif any(a.required and a.name != method.worker for a in method.arguments):
            yield (
                "heartbeat",
                "needs a method whose only required argument is the worker",
                "Leave it out.",
            )
    if method.shared and method.permission != "view":
        yield "shared", f"does not hold for the permission {method.permission}", "Leave it out."
    if method.shared and method.no_cache:
        yield "shared", "contradicts no_cache", "Keep one of the two."
    if method.allow_extra is False and method.extra_type is not None:
        yield "allow_extra", "contradicts extra_type", "Keep one of the two."
    if name.startswith("page."):
        idle = {
            "worker": method.worker,
            "heartbeat": method.heartbeat,
            "extra_type": method.extra_type,
            "allow_extra": method.allow_extra,
        }
        for key, value in idle.items():
            if value:
                yield key, "does not hold for a page", "Leave it out."


def _rename(tables: dict[str, Any], locate: Locate) -> list[Problem]:
    """Replace old keys and types in `tables` by the new ones; return a problem for each.

    An old key then causes no second problem, such as a missing new one.
    """
    problems: list[Problem] = []

    def report(loc: Loc, message: str) -> None:
        problems.append(Problem(locate(loc), message, "Use the new name."))

    def rename_keys(table: dict[str, Any], loc: Loc, keys: Iterable[str]) -> None:
        for old in keys:
            if old in table:
                report((*loc, old), f"is renamed to {RENAMED_KEYS[old]}")
                table.setdefault(RENAMED_KEYS[old], table.pop(old))

    def rename_type(table: dict[str, Any], loc: Loc, key: str) -> None:
        old = table.get(key)
        if isinstance(old, str) and old in RENAMED_TYPES:
            report((*loc, key), f"{old} is renamed to {RENAMED_TYPES[old]}")
            table[key] = RENAMED_TYPES[old]

    rename_keys(tables, (), ("extra",))
    for name, method in _tables_of(tables.get("methods")):
        loc = ("methods", name)
        rename_keys(method, loc, RENAMED_KEYS)
        rename_type(method, loc, "extra_type")
        for number, argument in _tables_of(method.get("arguments")):
            rename_type(argument, (*loc, "arguments", number), "type")
    return problems


def _tables_of(value: Any) -> Iterator[tuple[str | int, dict[str, Any]]]:
    """Yield the tables in a table or a list, with their keys or numbers; skip all other values."""
    pairs: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    yield from ((key, table) for key, table in pairs if isinstance(table, dict))


def _catalog_name(name: str) -> str:
    if not _CATALOG_NAME.fullmatch(name):
        raise invalid(
            "is not a catalog name", "Use 1 to 32 lower-case letters, digits and hyphens."
        )
    return name


def _method_name(name: str) -> str:
    if not _METHOD_NAME.fullmatch(name):
        raise invalid("is not a method name", "Use letters, digits and _ . : / only.")
    return name


def _argument_name(name: str) -> str:
    if not ARGUMENT_NAME.fullmatch(name):
        raise invalid(
            "is not an argument name", "Use up to 64 letters, digits and _, a digit not first."
        )
    return name


def _type_name(name: str) -> str:
    if name not in TYPES:
        raise invalid("is not an argument type", f"Use one of {', '.join(TYPES)}.")
    return name


def _named_once(arguments: "tuple[_Argument, ...]") -> "tuple[_Argument, ...]":
    names = [argument.name for argument in arguments]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise invalid(f"has {' and '.join(repeated)} twice", "Name each argument once.")
    return arguments


def _own_argument(name: str, info: ValidationInfo) -> str:
    """Check that `name` is an argument of the same method, if its arguments are valid."""
    arguments = info.data.get("arguments")
    if arguments is not None and name not in {argument.name for argument in arguments}:
        raise invalid(
            f"{name} is not an argument of the method", "Use the name of one of its arguments."
        )
    return name


def _task_ids_argument(name: str, info: ValidationInfo) -> str:
    for argument in info.data.get("arguments", ()):
        if argument.name == name and argument.type != "task-ids":
            raise invalid(
                f"{name} is not a list of task ids", 'Use arguments of the type "task-ids" only.'
            )
    return name


def _some_method(methods: dict[str, object]) -> dict[str, object]:
    if not methods:
        raise invalid("has no method", "Write one [methods.<name>] table per method.")
    return methods


_Text = Annotated[str, Field(min_length=1)]
_OwnArgument = Annotated[str, AfterValidator(_own_argument)]


class _Table(BaseModel):
    """What the tables of the file have in common."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class _Argument(_Table):
    """``{ name = "task_id", type = "task-id" }``."""

    name: Annotated[str, AfterValidator(_argument_name)] = Field(
        description="the argument's name, as the server declares it"
    )
    type: Annotated[str, AfterValidator(_type_name)] = Field(
        description='one of the argument types, such as "string"'
    )
    required: bool = False
    nullable: bool | None = Field(
        default=None, description="whether null is accepted; by default unless it is required"
    )
    secret: bool = False
    help: str = ""

    def argument(self) -> Argument:
        """Return the argument of the model."""
        nullable = not self.required if self.nullable is None else self.nullable
        return Argument(self.name, self.type, self.required, self.secret, nullable, self.help)


class _Method(_Table):
    """``[methods.<name>]``. `arguments` comes first, since the validators of others read it."""

    arguments: Annotated[tuple[_Argument, ...], AfterValidator(_named_once)] = Field(
        default=(), description='a list such as [{ name = "task_id", type = "task-id" }]'
    )
    permission: Literal["view", "work", "trigger", "admin", "unclassified"] = Field(
        description="what a policy grants as a group: view, work, trigger or admin; "
        "or unclassified, which denies"
    )
    help: _Text = Field(description="one sentence on what the method does")
    allow_extra: bool | None = None
    extra_type: Annotated[str, AfterValidator(_type_name)] | None = None
    heartbeat: bool = False
    no_cache: bool = False
    shared: bool | None = None
    suspended_while_draining: bool = False
    returns: Literal[
        "any", "null", "boolean", "integer", "number", "string", "array", "object", "html"
    ] = "any"
    task: tuple[_OwnArgument, ...] = Field(
        default=(), description='a list of argument names such as ["task_id"]'
    )
    related_tasks: tuple[
        Annotated[str, AfterValidator(_own_argument), AfterValidator(_task_ids_argument)], ...
    ] = Field(default=(), description='a list of argument names such as ["deps"]')
    worker: _OwnArgument | None = None
    must_start_with: dict[_OwnArgument, _OwnArgument] = Field(
        default={}, description='a table of argument names such as { task_id = "family" }'
    )

    def method(self, name: str, *, allow_extra: bool, shared: bool) -> Method:
        """Return the method of the model; `allow_extra` and `shared` are its catalog's defaults."""
        assert self.permission != "unclassified", "it is no method of the catalog"
        if self.shared is not None:
            shared = self.shared
        return Method(
            name=name,
            permission=self.permission,
            arguments=tuple(argument.argument() for argument in self.arguments),
            allow_extra=allow_extra if self.allow_extra is None else self.allow_extra,
            extra_type=self.extra_type,
            heartbeat=self.heartbeat,
            no_cache=self.no_cache,
            shared=shared and self.permission == "view" and not self.no_cache,
            suspended_while_draining=self.suspended_while_draining,
            returns=self.returns,
            help=self.help,
            task_args=self.task,
            related_task_args=self.related_tasks,
            worker_arg=self.worker,
            must_start_with=tuple(self.must_start_with.items()),
        )


class _Catalog(_Table):
    """One catalog file."""

    name: Annotated[str, AfterValidator(_catalog_name)] = Field(
        description="the catalog's name, such as luigi"
    )
    protocol: WireProtocol = Field(description='"luigi" or "xmlrpc"')
    allow_extra: bool = Field(
        default=False, description="whether methods accept keywords that are not listed"
    )
    methods: Annotated[
        dict[Annotated[str, AfterValidator(_method_name)], _Method], AfterValidator(_some_method)
    ] = Field(description="the methods, one [methods.<name>] table each")
