"""Settings of which some could not be read, for `callgate check`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from proxy.common.validation import Locate, dotted, freeze, model_in
from proxy.config.model import (
    Audit,
    Issuer,
    Limits,
    Listener,
    LocalIssuer,
    Log,
    Metrics,
    Policy,
    Settings,
    State,
    Upstream,
)
from proxy.config.values import Context


@dataclass(frozen=True, slots=True)
class PartialSettings:
    """The settings that could be read; None in place of a value, a table or a row that could not.

    A mistake in one table then hides no problem of another.
    """

    file: Path
    locate: Locate  # where a key was written, for the location of a problem
    public_url: str | None
    processes: int | None
    listeners: tuple[Listener | None, ...]
    issuers: tuple[Issuer | None, ...]
    local_issuer: LocalIssuer | None
    upstreams: tuple[Upstream | None, ...]
    policy: Policy | None
    state: State | None
    audit: Audit | None
    limits: Limits | None
    metrics: Metrics | None
    log: Log | None

    @classmethod
    def of(cls, settings: Settings) -> "PartialSettings":
        """Return complete settings as partial ones, which know no lines."""
        values = {name: getattr(settings, name) for name in Settings.model_fields}
        return cls(settings.file, lambda loc: f"{settings.file.name}: {dotted(loc)}", **values)

    @classmethod
    def salvage(
        cls, tables: Mapping[str, Any], context: Context, locate: Locate
    ) -> "PartialSettings":
        """Return what is valid of `tables`, each table and each row by itself."""
        values = {
            name: _salvage(field, tables.get(name, {}), context)
            if name in tables or field.is_required()
            else field.get_default(call_default_factory=True)
            for name, field in Settings.model_fields.items()
        }
        return cls(context["file"], locate, **values)


def _salvage(field: FieldInfo, value: object, context: Context) -> Any:
    if field.get_default(call_default_factory=True) == ():
        rows = value if isinstance(value, list) else []
        return tuple(_valid(model_in(field.annotation), row, context) for row in rows)
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return _valid(kind, value, context)


def _valid(kind: Any, value: object, context: Context) -> Any:
    try:
        return TypeAdapter(kind).validate_python(freeze(value), context=context)
    except ValidationError:
        return None
