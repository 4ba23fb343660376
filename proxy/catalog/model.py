"""A catalog in memory: the methods of one kind of upstream, their permissions and arguments.

Frozen throughout. What the check of a call needs of a method is derived once, when the method is
made. `proxy.catalog.loading` makes catalogs from TOML.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from proxy.catalog.types import TYPES, ArgumentType, PolicyType
from proxy.model import Permission

WireProtocol: TypeAlias = Literal["luigi", "xmlrpc"]
UNCLASSIFIED = "unclassified"
"""The permission of a method that a draft has not decided on: it denies every call."""
ARGUMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a method. `type` is a key of `TYPES`.

    With `nullable`, null is accepted in the place of a value. With `secret`, the audit record
    redacts the complete value.
    """

    name: str
    type: str
    required: bool = False
    secret: bool = False
    nullable: bool = True
    help: str = ""

    @property
    def policy_type(self) -> PolicyType | None:
        """The type that policies see, None when they cannot read the argument."""
        return TYPES[self.type].policy_type


@dataclass(frozen=True, slots=True)
class Method:
    """One method of an upstream.

    Attributes:
        arguments: in the order in which a call by position gives them.
        allow_extra: accept keywords that the catalog does not have. Clients may be newer or older
            than the server.
        extra_type: the type of every extra keyword, where the keywords are the data. Each must be
            named like a resource.
        heartbeat: the call only keeps the calling worker alive.
        no_cache: a view whose answer is made for each call. It is never `shared`.
        shared: a view whose answer equal calls share, on its way and for a moment from a cache.
        suspended_while_draining: the call begins work, so it is denied once the gate shuts down.
        task_args: the arguments that name the task or family that a call is about, best first.
        related_task_args: lists of other tasks that a call acts on. Each task is decided on too.
        worker_arg: the argument that names the calling worker. It is bound to the principal.
        must_start_with: pairs (a, b). If both are given and b is not empty, a is b, or begins with
            b and ``_`` or ``(`` (luigi.task.task_id_str, and ids of luigi 1).

    The remaining attributes are derived: `checks` has type and nullability by name, `secret_args`
    the paths of secrets.

    """

    name: str
    permission: Permission
    arguments: tuple[Argument, ...] = ()
    allow_extra: bool = False
    extra_type: str | None = None
    heartbeat: bool = False
    no_cache: bool = False
    shared: bool = False
    suspended_while_draining: bool = False
    returns: str = "any"
    help: str = ""
    task_args: tuple[str, ...] = ()
    related_task_args: tuple[str, ...] = ()
    worker_arg: str | None = None
    must_start_with: tuple[tuple[str, str], ...] = ()
    checks: dict[str, tuple[ArgumentType, bool]] = field(init=False, compare=False, repr=False)
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    required: tuple[str, ...] = field(init=False, compare=False, repr=False)
    secret_args: tuple[tuple[str, ...], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Derive what every call needs."""
        put = object.__setattr__
        put(self, "checks", {a.name: (TYPES[a.type], a.nullable) for a in self.arguments})
        put(self, "names", tuple(a.name for a in self.arguments))
        put(self, "required", tuple(a.name for a in self.arguments if a.required))
        put(self, "secret_args", tuple((a.name,) for a in self.arguments if a.secret))


@dataclass(frozen=True)
class Catalog:
    """The methods of one kind of upstream, by name.

    `text` is the file that it was loaded from, `digest` the file's SHA-256 in hex. `unclassified`
    are methods that the file names without a permission: they are denied, whatever the policies
    say, and so are not among `methods`.
    """

    name: str
    protocol: WireProtocol
    methods: Mapping[str, Method]
    digest: str = ""
    text: str = field(default="", repr=False)
    unclassified: frozenset[str] = frozenset()
