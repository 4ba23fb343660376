"""Permissions of the files that Callgate trusts or keeps secret, for `check` and before `serve`.

A user who may write a policy decides who may do what, and a user who may write a key set can forge
any identity. Each file is held to the mode that the part which uses it requires. Its owner, and the
owner and mode of every directory above it, are examined too (`proxy.common.file_trust`). A file on
a read-only file system counts as unwritable: containers mount such directories with any mode.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.audit.writing.keys import HMAC_KEY, SIGNING_KEY
from proxy.common.file_trust import Trust, is_closed_directory, is_secret, weak_owners
from proxy.config.loading import LocalIssuer, PartialSettings, Settings
from proxy.errors import ConfigError, Problem

_WRITE = 0o022  # by the group or by anybody
_ANY = 0o077
_JOURNAL = 0o027  # the group may list it: it can be the auditors'

_SIGN_IN = "they could sign in as any user of"
_STAND_IN = "they could take the place of"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A path, the permission bits that it must not have, what they allow, and the remedy."""

    path: Path
    forbidden: int
    consequence: str
    command: str
    group_may: bool = False
    """Whether the group of Callgate may do what others must not."""


def refuse_open(settings: Settings) -> None:
    """Raise `ConfigError` with every problem if other users could change what Callgate does."""
    trust = Trust.of_this_process()
    if problems := list(open_to_others(PartialSettings.of(settings), trust)):
        raise ConfigError(problems)


def trust_of_check(settings: PartialSettings) -> Trust:
    """Return the trust of `check`: root examines files for the owner of the audit directory."""
    trust = Trust.of_this_process()
    if os.geteuid() != 0 or settings.audit is None:
        return trust
    return trust.with_owner_of(settings.audit.directory)


def open_to_others(settings: PartialSettings, trust: Trust) -> Iterator[Problem]:
    """Yield a problem for each file that another user could change, replace, or read.

    Reads names and modes, and opens no file.
    """
    found: dict[Path, Problem] = {}
    for rule in _rules(settings):
        mode = _mode(rule.path) & rule.forbidden
        if mode and not (rule.group_may and _is_closed(rule, trust)):
            verb = "write" if mode & _WRITE else "read"
            message = (
                f"users other than its owner can {verb} this (mode {_mode(rule.path):04o}): "
                f"{rule.consequence}"
            )
            hint = f"Run: {rule.command} {shlex.quote(str(rule.path))}"
            found.setdefault(rule.path, Problem(str(rule.path), message, hint))
        for weak in weak_owners(rule.path, trust):
            message = f"{weak.message}: {rule.consequence}"
            found.setdefault(weak.path, Problem(str(weak.path), message, weak.hint))
    yield from found.values()


def _is_closed(rule: _Rule, trust: Trust) -> bool:
    """Return whether only a group of trusted users can do what the rule forbids."""
    try:
        if rule.path.is_dir():
            mode = rule.path.stat().st_mode
            return not mode & 0o007 and is_closed_directory(rule.path, trust)
        return is_secret(rule.path, trust)
    except OSError:
        return True


def _rules(settings: PartialSettings) -> Iterator[_Rule]:
    yield from _replaceable(settings.file, "they could change every setting")
    for issuer in settings.issuers:
        if issuer and issuer.jwks_file:
            yield from _replaceable(issuer.jwks_file, f"{_SIGN_IN} the issuer {issuer.name}")
        if issuer and issuer.ca_file:
            consequence = f"{_STAND_IN} the issuer {issuer.name}"
            yield _Rule(issuer.ca_file, _WRITE, consequence, "chmod go-w")
    for upstream in settings.upstreams:
        if upstream and upstream.ca_file:
            consequence = f"{_STAND_IN} the upstream {upstream.name}"
            yield _Rule(upstream.ca_file, _WRITE, consequence, "chmod go-w")
    for secret, consequence in _secrets(settings):
        yield _Rule(secret, _ANY, consequence, "chmod 600", group_may=True)
    if settings.local_issuer is not None:
        yield from _local_issuer_rules(settings.local_issuer)
    if settings.policy is not None:
        yield from _policy_rules(settings.policy.directory)
    if settings.audit is not None:
        yield from _journal_rules(settings.audit.directory)


def _secrets(settings: PartialSettings) -> Iterator[tuple[Path, str]]:
    """Yield the files of secrets, and what another user could do with them."""
    for listener in settings.listeners:
        if listener and listener.key and listener.key.file:
            yield listener.key.file, "they could take the place of Callgate"
    for upstream in filter(None, settings.upstreams):
        for secret in (upstream.client_key, upstream.basic_auth):
            if secret and secret.file:
                yield secret.file, f"they could call the upstream {upstream.name}"
    if settings.audit and settings.audit.signing_key and settings.audit.signing_key.file:
        yield settings.audit.signing_key.file, "they could sign another log"


def _local_issuer_rules(local: LocalIssuer) -> Iterator[_Rule]:
    consequence = f"{_SIGN_IN} the local issuer"
    yield _Rule(local.directory, _WRITE, consequence, "chmod 700")
    issue = "they could issue tokens"
    yield _Rule(local.directory / "state.json", _ANY, issue, "chmod 600", group_may=True)
    yield _Rule(local.jwks_file, _WRITE, consequence, "chmod 644")


def _policy_rules(directory: Path) -> Iterator[_Rule]:
    catalogs = directory / "catalogs"
    for path in (directory, *_inside(directory, "*.cedar"), directory / "roles.toml"):
        yield _Rule(path, _WRITE, "they could decide who may do what", "chmod go-w")
    for path in (catalogs, *_inside(catalogs, "*.toml")):
        yield _Rule(path, _WRITE, "they could decide what a method is", "chmod go-w")


def _journal_rules(directory: Path) -> Iterator[_Rule]:
    for path in (directory, *(path for path in _inside(directory, "*") if path.is_dir())):
        consequence = "the log is no evidence against them"
        yield _Rule(path, _JOURNAL, consequence, "chmod 700", group_may=True)
    guess = "they could guess values that were redacted from the log"
    yield _Rule(directory / HMAC_KEY, _ANY, guess, "chmod 600", group_may=True)
    forge = "they could sign another log"
    yield _Rule(directory / SIGNING_KEY, _ANY, forge, "chmod 600", group_may=True)


def _replaceable(path: Path, consequence: str) -> Iterator[_Rule]:
    """Yield the rules of a file that other users must not write, nor replace in its directory."""
    yield _Rule(path, _WRITE, consequence, "chmod go-w")
    if not _mode(path.parent) & stat.S_ISVTX:  # with the sticky bit they cannot replace it
        yield _Rule(path.parent, _WRITE, consequence, "chmod go-w")


def _inside(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return []  # the part that reads it reports that


def _mode(path: Path) -> int:
    """Return the permission bits that count; none if the path cannot be seen."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return 0
    return mode & ~0o222 if read_only else mode
