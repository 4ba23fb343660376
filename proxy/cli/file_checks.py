"""Checks of the files that the settings name: certificates, keys, key sets, the journal."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxy.audit.writing.keys import HMAC_KEY, SIGNING_KEY, load_hmac_key
from proxy.common.validation import Locate
from proxy.config.loading import PartialSettings, Upstream
from proxy.config.model import Audit, Listener
from proxy.edge.tls import server_context, upstream_context
from proxy.edge.validity import RENEWAL_HINT, read_validity, utc
from proxy.errors import ConfigError, Problem
from proxy.identity.jwks_file import JwksFile


def check_files(settings: PartialSettings) -> Iterator[Problem]:
    """Yield a problem for each file that Callgate could not use; nothing is written."""
    locate = settings.locate
    for number, listener in enumerate(settings.listeners):
        if listener:
            location = locate(("listeners", number, "certificate"))
            yield from _check_certificate(location, listener)
    for number, issuer in enumerate(settings.issuers):
        if issuer and issuer.ca_file:
            location = locate(("issuers", number, "ca_file"))
            yield from _attempt(location, partial(upstream_context, issuer.ca_file))
        if issuer and issuer.jwks_file:
            yield from _check_key_set(locate(("issuers", number, "jwks_file")), issuer.jwks_file)
    local = settings.local_issuer
    if local and _exists(local.jwks_file):  # it is made with the first token
        yield from _check_key_set(locate(("local_issuer", "directory")), local.jwks_file)
    for number, upstream in enumerate(settings.upstreams):
        if upstream:
            yield from _check_upstream(locate(("upstreams", number)), upstream)
    if settings.audit is not None:
        yield from _check_writable(locate(("audit", "directory")), settings.audit.directory)
        yield from _check_journal_keys(settings.audit, locate)


def _attempt(location: str, load: Callable[[], object]) -> Iterator[Problem]:
    try:
        load()
    except ConfigError as error:
        for problem in error.problems:
            yield Problem(location, f"{problem.location} {problem.message}", problem.hint)


def _check_certificate(location: str, listener: Listener) -> Iterator[Problem]:
    certificate, key = listener.certificate, listener.key
    if certificate is None or key is None:
        return
    try:
        server_context(certificate, key.file or key.reveal())
    except ConfigError as error:
        for problem in error.problems:  # the location names the file
            yield Problem(location, problem.message, problem.hint)
    else:
        yield from _warn_of_end(location, certificate, "")


def _warn_of_end(location: str, certificate: Path, subject: str) -> Iterator[Problem]:
    """Yield a warning if a certificate that can be used now ends soon."""
    try:
        validity = read_validity(certificate)
    except (ConfigError, OSError):
        return  # reported by the attempt to load it
    now = time.time()
    if validity.valid_at(now) and validity.ends_soon(now):
        message = f"{subject}expires on {utc(validity.ends)}"
        yield Problem(location, message, RENEWAL_HINT, warning=True)


def _check_key_set(location: str, path: Path) -> Iterator[Problem]:
    keys = JwksFile(path)
    keys.poll()
    if keys.problem is not None:
        hint = "Fetch the issuer's jwks_uri again, or remove jwks_file to use discovery."
        yield Problem(location, f"has no usable key set: {keys.problem}", hint)


def _check_upstream(location: str, upstream: Upstream) -> Iterator[Problem]:
    if not upstream.url.startswith("https://"):
        return
    key = upstream.client_key
    material = None if key is None else key.file or key.reveal()
    load = partial(upstream_context, upstream.ca_file, upstream.client_certificate, material)
    yield from _attempt(location, load)
    if upstream.client_certificate is not None:
        certificate = upstream.client_certificate
        yield from _warn_of_end(location, certificate, f"{certificate} ")


def _check_writable(location: str, directory: Path) -> Iterator[Problem]:
    """Find out whether the journal can be written: `serve` makes its directory."""
    nearest = next((path for path in (directory, *directory.parents) if _exists(path)), directory)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        hint = "Give the user of Callgate the right to write there."
        yield Problem(location, f"{nearest} cannot be written", hint)


def _check_journal_keys(audit: Audit, locate: Locate) -> Iterator[Problem]:
    """Read the keys in the journal's directory as `serve` would, but make none.

    Their modes are checked by `proxy.cli.file_modes`.
    """
    hmac_key = audit.directory / HMAC_KEY
    if _exists(hmac_key) and not hmac_key.stat().st_mode & 0o077:
        yield from _attempt(
            locate(("audit", "directory")), partial(load_hmac_key, audit.directory, make=False)
        )
    source: Path | str = audit.directory / SIGNING_KEY
    try:
        if audit.signing_key is not None:
            source = audit.signing_key.file or audit.signing_key.source
            pem = audit.signing_key.reveal().encode()
        elif _exists(audit.directory / SIGNING_KEY):
            pem = (audit.directory / SIGNING_KEY).read_bytes()
        else:
            return  # `serve` makes it
        usable = isinstance(load_pem_private_key(pem, password=None), Ed25519PrivateKey)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        usable = False
    if not usable:
        message = f"{source} is no Ed25519 key without a pass phrase"
        hint = "Restore it from a backup, or make one with callgate audit key make."
        yield Problem(locate(("audit", "signing_key")), message, hint)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a directory that this user cannot enter
