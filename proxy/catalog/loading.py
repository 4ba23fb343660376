"""Catalogs: which methods an upstream has, what class of permission each needs, and what its
arguments must be.

A catalog is a TOML file in ``policies/catalogs``. Everything else reads it: the codecs name and
check arguments by it, policies are validated against it, `system.methodSignature` is answered from
it, the audit withholds what it marks as secret. What a catalog does not name does not exist: an
unknown method is denied, whatever the policies say.

The arguments of every call are checked by it (`proxy.catalog.checking`), so a catalog compiles one
table per method when it is loaded.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, cast, get_args

from proxy.catalog.types import TYPES, ArgumentType, PolicyType
from proxy.errors import ConfigError, Problem
from proxy.model import Permission, Value

WireProtocol: TypeAlias = Literal["luigi", "xmlrpc"]
Shape: TypeAlias = tuple[tuple[str, ...], tuple[type, ...]]
"""The names of a call's arguments in order, and the Python types of their values."""
LeftOpen: TypeAlias = tuple[str, Container[object], Callable[[Value], bool], str]
"""What a shape leaves open of one argument: its name, values of it that are good, who is asked for
others, and the refusal.
"""
ARGUMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_METHOD_NAME = re.compile(r"[A-Za-z0-9_.:/]{1,255}")
_CATALOG_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_CATALOG_KEYS = frozenset(("name", "protocol", "extra", "methods"))
_METHOD_KEYS = frozenset(
    (
        "class",
        "help",
        "arguments",
        "extra",
        "each_extra",
        "heartbeat",
        "fresh",
        "suspended_while_draining",
        "returns",
        "task",
        "tasks",
        "worker",
        "starts_with",
    )
)
_ARGUMENT_KEYS = frozenset(("name", "type", "required", "nullable", "secret", "help"))
_RETURNS = frozenset(
    ("any", "null", "boolean", "integer", "number", "string", "array", "object", "html")
)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: its name, its type (a key of `TYPES`), and whether it must be there.

    `nullable` says that null may stand for a value: by default in an optional argument and not in a
    required one. `secret` has the audit withhold the whole value.
    """

    name: str
    type: str
    required: bool = False
    secret: bool = False
    nullable: bool = True
    help: str = ""

    @property
    def policy_type(self) -> PolicyType | None:
        """What a policy sees of the argument, None when it sees nothing (numbers with a point,
        objects, lists of them).
        """
        return TYPES[self.type].policy_type


@dataclass(frozen=True, slots=True)
class Method:
    """One method. `arguments` are in the order in which a call by position gives them.

    `extra` lets keywords pass that the catalog does not name (clients are older and newer than the
    server); with `each_extra` every one of them must be of that type and be named like a resource,
    since the names are data there. `heartbeat` marks a call that only says "I am alive"; `fresh` a
    view that must not be answered from a cache; `suspended_while_draining` a call that is denied
    once the gate shuts down, since it would begin work. `task_args` name the arguments that tell
    which task or family a call is about, best first; `tasks_args` lists of other tasks that it acts
    on, each to be decided on too; `worker_arg` the one that names the calling worker, to be bound
    to the identity. `starts_with` holds pairs (a, b): when both are given and b is not empty, a is
    b, or b followed by ``_`` or ``(`` (luigi.task.task_id_str, and ids of luigi 1).
    """

    name: str
    permission: Permission
    arguments: tuple[Argument, ...] = ()
    extra: bool = False
    each_extra: str | None = None
    heartbeat: bool = False
    fresh: bool = False
    suspended_while_draining: bool = False
    returns: str = "any"
    help: str = ""
    task_args: tuple[str, ...] = ()
    tasks_args: tuple[str, ...] = ()
    worker_arg: str | None = None
    starts_with: tuple[tuple[str, str], ...] = ()
    checks: Mapping[str, tuple[ArgumentType, bool]] = field(init=False, compare=False, repr=False)
    required: tuple[str, ...] = field(init=False, compare=False, repr=False)
    secret_args: tuple[tuple[str, ...], ...] = field(init=False, compare=False, repr=False)
    disarmed: tuple[str, ...] = field(init=False, compare=False, repr=False)
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    shapes: dict[Shape, tuple[LeftOpen, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Compile what every call needs: name to type and nullability, the names, those required,
        the paths of secrets.
        """
        put = object.__setattr__
        put(self, "checks", {a.name: (TYPES[a.type], a.nullable) for a in self.arguments})
        put(self, "names", tuple(a.name for a in self.arguments))
        put(self, "required", tuple(a.name for a in self.arguments if a.required))
        put(self, "secret_args", tuple((a.name,) for a in self.arguments if a.secret))
        put(self, "shapes", {})
        put(self, "disarmed", tuple(a.name for a in self.arguments if a.type == "markup-free"))


@dataclass(frozen=True)
class Catalog:
    """The methods of one kind of upstream. `text` is the file it came from, `digest` the SHA-256 of
    that in hex.
    """

    name: str
    protocol: WireProtocol
    methods: Mapping[str, Method]
    digest: str = ""
    text: str = field(default="", repr=False)


def load_catalog(path: Path) -> Catalog:
    """Read one catalog file. Raises `ConfigError` with every problem in it, each with its place and
    the mend.
    """
    place = _place(path)
    try:
        raw = path.read_bytes()
        text = raw.decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    place,
                    f"cannot be read: {error.strerror}",
                    "Check the path and its permissions.",
                )
            ]
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            [Problem(place, f"is not TOML: {error}", "Mend the syntax at that line.")]
        ) from None
    return _Reader(place).catalog(document, hashlib.sha256(raw).hexdigest(), text)


def _place(path: Path) -> str:
    """Name the path as a reader knows it: from the policies directory on."""
    return "/".join(path.parts[-3:]) if path.is_absolute() else path.as_posix()


class _Reader:
    """Turns a TOML document into a `Catalog`, and collects what is wrong instead of stopping at it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.problems: list[Problem] = []

    def catalog(self, document: Mapping[str, object], digest: str, text: str) -> Catalog:
        self._no_other_keys("", document, _CATALOG_KEYS)
        name = self._text("", document, "name")
        if not _CATALOG_NAME.fullmatch(name):
            self._wrong(
                "name",
                "must be 1 to 32 lower-case letters, digits and hyphens",
                'Write name = "luigi".',
            )
        protocol = self._one_of("", document, "protocol", get_args(WireProtocol), None)
        extra = self._flag("", document, "extra", default=False)
        methods: dict[str, Method] = {}
        tables = document.get("methods")
        if not isinstance(tables, dict) or not tables:
            self._wrong("methods", "has no method", "Write one [methods.<name>] table per method.")
        else:
            for method, table in tables.items():
                where = f"methods.{method}"
                if not _METHOD_NAME.fullmatch(method):
                    self._wrong(
                        where, "is not a method name", "Use letters, digits and _ . : / only."
                    )
                if not isinstance(table, dict):
                    self._wrong(where, "must be a table", f"Write [{where}] and its keys below it.")
                else:
                    methods[method] = self._method(method, where, table, extra=extra)
        if self.problems:
            raise ConfigError(self.problems)
        return Catalog(name, cast(WireProtocol, protocol), MappingProxyType(methods), digest, text)

    def _method(self, name: str, where: str, table: Mapping[str, object], *, extra: bool) -> Method:
        self._no_other_keys(where, table, _METHOD_KEYS)
        permission = self._one_of(where, table, "class", get_args(Permission), None)
        arguments: list[Argument] = []
        listed = table.get("arguments", [])
        if not isinstance(listed, list):
            self._wrong(
                f"{where}.arguments",
                "must be a list of tables",
                'Write arguments = [{ name = "task_id", type = "task-id" }].',
            )
        else:
            for number, entry in enumerate(listed):
                if isinstance(entry, dict):
                    arguments.append(self._argument(f"{where}.arguments[{number}]", entry))
                else:
                    self._wrong(
                        f"{where}.arguments[{number}]",
                        "must be a table",
                        'Write { name = "task_id", type = "task-id" }.',
                    )
        names = [argument.name for argument in arguments]
        for repeated in sorted({name for name in names if names.count(name) > 1}):
            self._wrong(f"{where}.arguments", f"names {repeated} twice", "Name each argument once.")
        each = self._text(where, table, "each_extra", default="")
        if each and each not in TYPES:
            self._wrong(
                f"{where}.each_extra", f"{each} is no type", f"Use one of {', '.join(TYPES)}."
            )
        worker = self._text(where, table, "worker", default="")
        task = self._texts(where, table, "task")
        tasks = self._texts(where, table, "tasks")
        starts = self._starts(where, table)
        bound = [worker] if worker else []
        paired = [name for pair in starts for name in pair]
        for key, used in (
            ("task", task),
            ("tasks", tasks),
            ("worker", bound),
            ("starts_with", paired),
        ):
            for unknown in sorted(set(used) - set(names)):
                self._wrong(
                    f"{where}.{key}",
                    f"{unknown} is not one of the method's arguments",
                    "Name one of its arguments.",
                )
        for other in sorted(
            {argument.name for argument in arguments if argument.type != "task-ids"} & set(tasks)
        ):
            self._wrong(
                f"{where}.tasks",
                f"{other} is no list of task ids",
                'Name arguments of the type "task-ids" only.',
            )
        return Method(
            name=name,
            permission=cast(Permission, permission or "admin"),
            arguments=tuple(arguments),
            extra=self._flag(where, table, "extra", default=extra),
            each_extra=each if each in TYPES else None,
            heartbeat=self._flag(where, table, "heartbeat", default=False),
            fresh=self._flag(where, table, "fresh", default=False),
            suspended_while_draining=self._flag(
                where, table, "suspended_while_draining", default=False
            ),
            returns=self._one_of(where, table, "returns", _RETURNS, "any"),
            help=self._text(where, table, "help"),
            task_args=tuple(task),
            tasks_args=tuple(tasks),
            worker_arg=worker or None,
            starts_with=tuple(starts),
        )

    def _argument(self, where: str, table: Mapping[str, object]) -> Argument:
        self._no_other_keys(where, table, _ARGUMENT_KEYS)
        name = self._text(where, table, "name")
        if name and not ARGUMENT_NAME.fullmatch(name):
            self._wrong(
                f"{where}.name",
                "is not an argument name",
                "Use up to 64 letters, digits and _, not beginning with a digit.",
            )
        required = self._flag(where, table, "required", default=False)
        return Argument(
            name=name,
            type=self._one_of(where, table, "type", TYPES, None) or "any",
            required=required,
            secret=self._flag(where, table, "secret", default=False),
            nullable=self._flag(where, table, "nullable", default=not required),
            help=self._text(where, table, "help", default=""),
        )

    def _starts(self, where: str, table: Mapping[str, object]) -> list[tuple[str, str]]:
        pairs = table.get("starts_with", {})
        if not isinstance(pairs, dict) or not all(
            isinstance(value, str) for value in pairs.values()
        ):
            self._wrong(
                f"{where}.starts_with",
                "must be a table of argument names",
                'Write starts_with = { task_id = "family" }.',
            )
            return []
        return list(pairs.items())

    def _text(
        self, where: str, table: Mapping[str, object], key: str, *, default: str | None = None
    ) -> str:
        value = table.get(key, default)
        if isinstance(value, str) and (value or default is not None):
            return value
        self._wrong(_join(where, key), "is missing or no text", f'Write {key} = "...".')
        return ""

    def _texts(self, where: str, table: Mapping[str, object], key: str) -> list[str]:
        value = table.get(key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        self._wrong(
            _join(where, key), "must be a list of argument names", f'Write {key} = ["task_id"].'
        )
        return []

    def _flag(self, where: str, table: Mapping[str, object], key: str, *, default: bool) -> bool:
        value = table.get(key, default)
        if isinstance(value, bool):
            return value
        self._wrong(
            _join(where, key), "must be true or false", f"Write {key} = true or leave it out."
        )
        return default

    def _one_of(
        self,
        where: str,
        table: Mapping[str, object],
        key: str,
        allowed: Collection[str],
        default: str | None,
    ) -> str:
        value = table.get(key, default)
        if isinstance(value, str) and value in allowed:
            return value
        what = "is missing" if value is None else f"is not one of {', '.join(allowed)}"
        self._wrong(_join(where, key), what, f"Use one of {', '.join(allowed)}.")
        return default or ""

    def _no_other_keys(
        self, where: str, table: Mapping[str, object], allowed: Collection[str]
    ) -> None:
        for key in table:
            if key not in allowed:
                self._wrong(
                    _join(where, key),
                    "is not a known key",
                    f"Use only {', '.join(sorted(allowed))}.",
                )

    def _wrong(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(f"{self.place}: {where}", what, remedy))


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
