"""Cedar's entities and requests, as JSON: principals, roles, upstreams, methods and calls.

Names reach Cedar as JSON values only, never as Cedar syntax, so no subject or argument can be read
as policy.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.catalog.model import Catalog
from proxy.model import Call, Principal, Value
from proxy.policy.context_reads import TASK_KEY
from proxy.policy.decision_key import value_of
from proxy.policy.schema import PERMISSIONS, Action


def request_of(
    principal: Principal, call: Call, task: str | None, action: Action, reads: Sequence[str]
) -> dict[str, Any]:
    """Return the request for one call about `task`, with the part of the context in `reads`.

    Raises:
        TypeError: a value is not of its type in the schema.

    """
    args: dict[str, Value] = {}
    context: dict[str, Any] = {"agent": principal.agent, "args": args}
    for at in reads:
        value = value_of(call, task, at, action.args.get(at, "string"))
        if value is not None:
            if at == TASK_KEY:
                context["task"] = value
            else:
                args[at] = value
    return {
        "principal": {"type": "User", "id": principal.name},
        "action": {"type": "Action", "id": call.method},
        "resource": {"type": "Scheduler", "id": call.upstream},
        "context": context,
    }


def _entity(
    kind: str, name: str, attributes: Mapping[str, object], parents: Sequence[tuple[str, str]]
) -> dict[str, object]:
    above = [{"type": parent, "id": parent_name} for parent, parent_name in parents]
    return {"uid": {"type": kind, "id": name}, "attrs": dict(attributes), "parents": above}


def action_entities(actions: Mapping[str, Action]) -> list[dict[str, object]]:
    """Return the permissions, and the methods with their permission as parent."""
    permissions = [_entity("Action", name, {}, []) for name in PERMISSIONS]
    return permissions + [
        _entity("Action", name, {}, [("Action", action.permission)])
        for name, action in actions.items()
    ]


def upstream_entities(catalogs: Mapping[str, Catalog]) -> list[dict[str, object]]:
    """Return the upstreams."""
    return [
        _entity("Scheduler", name, {"protocol": catalog.protocol}, [])
        for name, catalog in catalogs.items()
    ]


def user_entities(principal: Principal) -> str:
    """Return the principal and its roles."""
    attributes = {
        "issuer": principal.issuer,
        "subject": principal.subject,
        "groups": list(principal.groups),
    }
    user = _entity("User", principal.name, attributes, [("Role", role) for role in principal.roles])
    return json.dumps([*(_entity("Role", role, {}, []) for role in principal.roles), user])
