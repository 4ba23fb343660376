"""The rights that a policy set grants, for a set that is given by its texts.

The texts are those of a policy snapshot: the policies, ``roles.toml``, the catalogs, and which
upstream had which catalog. A right with conditions on arguments counts as granted.
"""

import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
from proxy.errors import ConfigError, Problem
from proxy.policy.engine import PolicySet
from proxy.policy.load import UPSTREAMS, load_policies
from proxy.policy.reachability import PartialCall, may_be_allowed
from proxy.policy.roles import Matcher
from proxy.policy.schema import actions_of


class GrantedRights:
    """The rights that one policy set grants, by principal."""

    def __init__(self, policies: PolicySet, catalogs: Mapping[str, Catalog]) -> None:
        """Take the set, and the catalog of each upstream."""
        self.hash = policies.hash
        self._catalogs = catalogs
        self._trees = tuple(policy.tree for policy in policies.policies.values())
        self._actions = actions_of(list(catalogs.values()))
        self._matchers = policies.roles.matchers

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> "GrantedRights":
        """Load a set from its texts by file name.

        Raises:
            ConfigError: this version of Callgate cannot load the set.

        """
        if UPSTREAMS not in texts:
            hint = "Use the version of Callgate that saved it."
            raise ConfigError([Problem("the policy set", "has no catalogs", hint)])
        with tempfile.TemporaryDirectory() as name:
            return cls(*_load(Path(name), texts))

    def methods_of(
        self, name: str, roles: Sequence[str], *, agent: bool
    ) -> dict[tuple[str, str], list[str]]:
        """Return the methods that a principal may be allowed, by upstream and permission.

        Args:
            name: its issuer's name and its subject, with a bar between them.
            roles: the roles that it has.
            agent: whether an agent acts for it.

        """
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        if not roles:
            return found
        for upstream, catalog in self._catalogs.items():
            for method, entry in catalog.methods.items():
                action = self._actions[method]
                call = PartialCall(name, tuple(roles), agent, upstream, method, action)
                if may_be_allowed(self._trees, call):
                    found[upstream, entry.permission].append(method)
        return found

    def roles(self) -> list[tuple[str, str]]:
        """Return each role with the condition for having it."""
        return [(matcher.role, _condition(matcher)) for matcher in self._matchers]


def _load(directory: Path, texts: Mapping[str, str]) -> tuple[PolicySet, dict[str, Catalog]]:
    """Write the texts to `directory`, and load the set with the catalog of each upstream."""
    (directory / "catalogs").mkdir()
    by_name: dict[str, Catalog] = {}
    for file, text in texts.items():
        folder, _, base = file.rpartition("/")
        path = directory / ("catalogs" if folder else "") / Path(base).name
        path.write_bytes(text.encode())
        if folder:
            catalog = load_catalog(path, accept_old_names=True)  # the log may be an old one
            by_name[catalog.name] = catalog
    upstreams = tomllib.loads(texts[UPSTREAMS])
    catalogs = {upstream: by_name[catalog] for upstream, catalog in upstreams.items()}
    unused = [catalog for name, catalog in by_name.items() if name not in upstreams.values()]
    return load_policies(directory, catalogs, unused=unused), catalogs


def _condition(matcher: Matcher) -> str:
    """Return every condition of a matcher as text."""
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
    agent = " (as an agent)" if matcher.agent else ""
    return f"{matcher.issuer}: {' and '.join(conditions) or 'anyone'}{agent}"
