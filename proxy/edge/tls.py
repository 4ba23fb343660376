"""TLS contexts: the listener's, which follows its certificate files, and those for https servers.

Implements: TLS 1.2 and 1.3 only; forward-secret AEAD suites only (ECDHE with AES-GCM or
ChaCha20-Poly1305, RFC 9325 section 4.2) as server and as client; no compression, no renegotiation,
no session tickets; ALPN ``http/1.1``. A ticket key would live as long as the process, and would
undo forward secrecy for as long.

TLS 1.3 sessions are not resumed. A TLS 1.2 client may resume a session by its id for two hours at
most: OpenSSL caches the keys of the latest sessions in the memory of the process, and Python's
`ssl` has no switch for that. Read access to that memory would expose those sessions. Nothing of
them reaches a disk, another process, or the client.

Trusts the files it is given. Refuses a certificate and key that do not belong together, a
certificate outside its time (`proxy.edge.validity`), and a key with a pass phrase, since a service
cannot type one.
"""

import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from proxy.edge.validity import Validity, read_validity, refuse_invalid
from proxy.errors import ConfigError, Problem

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
Key: TypeAlias = Path | str
"""A private key: the path of its PEM file, or the PEM text itself (from the environment)."""

_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


def server_context(
    certificate: Path, key: Key, *, clock: Callable[[], float] = time.time
) -> ssl.SSLContext:
    """Return the context of a listener. `certificate` is a PEM chain; `clock` gives Unix seconds.

    Raises:
        ConfigError: the certificate or the key cannot be used, or not at this time.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= (
        ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_CIPHER_SERVER_PREFERENCE
        | ssl.OP_NO_TICKET
    )
    context.num_tickets = 0  # OP_NO_TICKET alone leaves stateful tickets in TLS 1.3
    _load_pair(context, certificate, key, clock())
    return context


def upstream_context(
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Key | None = None,
    *,
    clock: Callable[[], float] = time.time,
) -> ssl.SSLContext:
    """Return the context for an https server, verified against `ca` (PEM) or the system's CAs.

    `certificate` and `key` are the client's, if it has any. `clock` gives Unix seconds.

    Raises:
        ConfigError: a file cannot be used, or a certificate not at this time.

    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            [
                Problem(
                    str(ca),
                    f"has no usable CA certificate ({_error_text(error)})",
                    "Name a PEM file with CA certificates.",
                )
            ]
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    if certificate is not None and key is not None:
        _load_pair(context, certificate, key, clock())
    return context


class ReloadingCertificate:
    """A listener's context whose certificate follows its files.

    `context` is one object for the life of the process, so a renewal needs no new listener. A new
    pair is loaded into a context of its own, and new handshakes switch to it. Open connections are
    not affected. (The live context cannot be reloaded: it would offer the old certificate as well
    if the new one has another key type.)
    """

    def __init__(
        self, certificate: Path, key: Key, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Load the pair for the first time. `clock` gives Unix seconds.

        Raises:
            ConfigError: the certificate or the key cannot be used, or not at this time.

        """
        self._certificate, self._key, self._clock = certificate, key, clock
        self._loaded = self._unconfirmed = self._stamp()
        self._reported: _Stamp | None = None
        # Unix seconds from which the pair that was reported is valid; 0 for a pair that is bad.
        self._reported_begins = 0.0
        self.context = server_context(certificate, key, clock=clock)
        self.validity: Validity = read_validity(certificate)

    def reload_if_changed(self) -> bool:
        """Check the files, about once a second; return whether new handshakes use a new pair.

        Two files are replaced one after the other. So a pair that does not match is an error only
        if the next check finds it again. The old pair then stays in use. So it does while the new
        certificate is outside its time; one whose time has not begun is loaded when it does.

        Raises:
            ConfigError: the files cannot be used; once for each bad version of them.

        """
        stamp = self._stamp()
        if stamp == self._loaded:
            return False
        if stamp == self._reported and not 0 < self._reported_begins <= self._clock():
            return False
        try:
            fresh = server_context(self._certificate, self._key, clock=self._clock)
            validity = read_validity(self._certificate)
        except (ConfigError, OSError) as error:
            if stamp != self._unconfirmed:
                self._unconfirmed = stamp
                return False
            self._reported = stamp
            self._reported_begins = self._begins_later()
            if isinstance(error, OSError):
                raise _unusable(self._certificate, error) from error
            raise
        if self._stamp() != stamp:
            return False  # changed while it was read: the next check decides
        self._loaded, self._reported, self.validity = stamp, None, validity

        def use_fresh(
            connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
        ) -> None:
            connection.context = fresh

        # Called for every handshake, with or without a server name.
        self.context.sni_callback = use_fresh
        return True

    def _begins_later(self) -> float:
        """Return the time from which the certificate is valid if that is to come, else 0."""
        try:
            begins = read_validity(self._certificate).begins
        except (ConfigError, OSError):
            return 0.0
        return begins if begins > self._clock() else 0.0

    def _stamp(self) -> _Stamp:
        """Return a value that changes when a file is replaced, rewritten or removed."""
        found = []
        for path in (self._certificate, self._key):
            if isinstance(path, Path):
                try:
                    status = path.stat()
                    found.append((status.st_ino, status.st_size, status.st_mtime_ns))
                except OSError:
                    found.append((0, 0, 0))
        return tuple(found)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Key, now: float) -> None:
    try:
        with _as_file(key) as path:
            # Without a password function OpenSSL would prompt on the terminal.
            context.load_cert_chain(certificate, path, password=lambda: "")
        refuse_invalid(certificate, now)
    except (ssl.SSLError, OSError) as error:
        raise _unusable(certificate, error) from error


def _unusable(certificate: Path, error: OSError) -> ConfigError:
    message = f"cannot be used with its key ({_error_text(error)})"
    hint = (
        "Name a PEM certificate chain, the server's certificate first, and its key without a "
        "pass phrase."
    )
    return ConfigError([Problem(str(certificate), message, hint)])


@contextmanager
def _as_file(key: Key) -> Iterator[Path]:
    """Yield the path of the key.

    OpenSSL reads paths only, so a key given as text gets a file in memory.
    """
    if isinstance(key, Path):
        yield key
        return
    with os.fdopen(os.memfd_create("callgate-key", os.MFD_CLOEXEC), "w", encoding="utf-8") as file:
        file.write(key)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _error_text(error: OSError) -> str:
    return (error.strerror or type(error).__name__).partition(" (_ssl.c")[0]
