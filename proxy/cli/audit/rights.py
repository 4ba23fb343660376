"""What a policy set of the past allows: rebuilt from the texts kept beside the log, never from the
files of today.

The kept texts are those of the policies, of ``roles.toml``, of the catalogs, and which upstream had
which catalog. They are believed only if the log vouches for them
(`proxy.audit.reporting.controls.policy_activations`) and if loading them gives the very hash that the log
names. A set that does not load, because this version of callgate reads policies otherwise, is
refused.
"""

import tempfile
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.audit.reporting.controls import PolicyActivation, RightsOf
from proxy.catalog.loading import Catalog, load_catalog
from proxy.errors import ConfigError, Problem
from proxy.policy.engine import PolicySet
from proxy.policy.load import UPSTREAMS, load_policies
from proxy.policy.reachability import PartialCall, may_be_allowed
from proxy.policy.roles import Matcher
from proxy.policy.schema import actions_of


@dataclass(frozen=True, slots=True)
class Rights:
    """What a set grants to a recorded principal, and its roles with to whom they are given."""

    granted: RightsOf
    given: list[tuple[str, str]]


def rights(found: PolicyActivation) -> Rights:
    """Return the rights of a set that was in force. Raise ConfigError when it cannot be told what
    they were.
    """
    if found.texts is None:
        raise ConfigError(
            [
                Problem(
                    "the policy set",
                    found.caveat,
                    "restore the audit directory's policies/ from a backup",
                )
            ]
        )
    policies, catalogs = _load(found.texts)
    if policies.hash != found.hash:
        raise ConfigError(
            [
                Problem(
                    "the policy set",
                    f"the kept texts have the hash {policies.hash}",
                    "use the version of callgate of then",
                )
            ]
        )
    trees = tuple(policy.tree for policy in policies.policies.values())
    actions = actions_of(list(catalogs.values()))

    def granted(principal: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
        held: dict[tuple[str, str], list[str]] = defaultdict(list)
        name = f"{principal.get('issuer_name')}|{principal.get('subject')}"
        roles, agent = tuple(principal.get("roles", ())), bool(principal.get("agent"))
        for upstream, catalog in catalogs.items() if roles else ():
            for method, made in catalog.methods.items():
                if may_be_allowed(
                    trees, PartialCall(name, roles, agent, upstream, method, actions[method])
                ):
                    held[upstream, made.permission].append(method)
        return held

    return Rights(granted, [(matcher.role, _whom(matcher)) for matcher in policies.roles.matchers])


def _load(texts: dict[str, str]) -> tuple[PolicySet, dict[str, Catalog]]:
    """Load a set from its texts, with the catalog of each upstream."""
    if UPSTREAMS not in texts:
        raise ConfigError(
            [
                Problem(
                    "the policy set",
                    "its catalogs were not kept",
                    "use the version of callgate of then",
                )
            ]
        )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "catalogs").mkdir()
        every: dict[str, Catalog] = {}
        for file, text in texts.items():
            folder, _, base = file.rpartition("/")
            path = directory / ("catalogs" if folder else "") / Path(base).name
            path.write_bytes(text.encode())
            if folder:
                catalog = load_catalog(path)
                every[catalog.name] = catalog
        upstreams = tomllib.loads(texts[UPSTREAMS])
        catalogs = {upstream: every[catalog] for upstream, catalog in upstreams.items()}
        unused = [catalog for name, catalog in every.items() if name not in upstreams.values()]
        return load_policies(directory, catalogs, unused=unused), catalogs


def _whom(matcher: Matcher) -> str:
    """Say to whom a role is given, every condition of it."""
    conditions = [
        f"{kind} {value}"
        for kind, value in (("group", matcher.group), ("subject", matcher.subject))
        if value is not None
    ]
    if matcher.claim is not None:
        wanted = (
            f"contains {matcher.contains}"
            if matcher.contains is not None
            else f"equals {matcher.equals!r}"
        )
        conditions.append(f"claim {matcher.claim} {wanted}")
    return f"{matcher.issuer}: {' and '.join(conditions) or 'anyone'}" + (
        " (as an agent)" if matcher.agent else ""
    )
