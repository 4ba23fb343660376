"""TLS on both legs: the gate's own certificate, re-read when it changes, and what the gate asks of
https upstreams and issuers.

Implements: TLS 1.2 and 1.3 only; forward-secret AEAD suites only (ECDHE with AES-GCM or
ChaCha20-Poly1305, RFC 9325 §4.2) on both legs; no compression, no renegotiation, no session tickets
(a ticket key lives as long as the process, and would undo forward secrecy for as long); ALPN
``http/1.1``.

In TLS 1.3 no session is resumed. In TLS 1.2 a client may resume one by its id, for two hours at
most: OpenSSL keeps the keys of the latest sessions in the memory of the process, and Python's `ssl`
has no switch for that. Whoever could read that memory could read those sessions; nothing of them
reaches a disk, another process, or the client.

Trusts the files it is given. Refuses a certificate and key that do not belong
together, and a key that asks for a pass phrase: there is nobody to type it.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from proxy.errors import ConfigError, Problem

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
Key: TypeAlias = Path | str
"""A private key: the path of its PEM file, or the PEM text itself when it came from the
environment.
"""

_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


def server_context(certificate: Path, key: Key) -> ssl.SSLContext:
    """Make the context of the listener. `certificate` is the PEM chain; raises `ConfigError` naming
    what is wrong with the pair.
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
    context.num_tickets = 0  # OP_NO_TICKET alone would leave TLS 1.3 with stateful tickets
    _load_pair(context, certificate, key)
    return context


def upstream_context(
    ca: Path | None = None, certificate: Path | None = None, key: Key | None = None
) -> ssl.SSLContext:
    """Make the context for an https upstream: verified against `ca` (PEM) or the system's CAs, with
    a client certificate or without.

    Raises `ConfigError` when a file cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            [
                Problem(
                    str(ca),
                    f"holds no usable CA certificate ({_said(error)})",
                    "Name a PEM file with CA certificates.",
                )
            ]
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    if certificate is not None and key is not None:
        _load_pair(context, certificate, key)
    return context


class ReloadingCertificate:
    """The listener's context, whose certificate follows its files.

    `context` stays the same object for the life of the gate, so that the listener never has to be
    opened again. A new pair is loaded into a context of its own, which new handshakes are handed
    to; connections that are open keep what they have. (Loading into the live context would leave
    the old certificate beside a new one of another key type.)
    """

    def __init__(self, certificate: Path, key: Key) -> None:
        """Load the pair for the first time; raises `ConfigError`."""
        self._certificate, self._key = certificate, key
        self._loaded = self._suspect = self._stamp()
        self._reported: _Stamp | None = None
        self.context = server_context(certificate, key)

    def reload_if_changed(self) -> bool:
        """Look at the files; True when new handshakes now use a new pair. Call it about once a
        second.

        Raises `ConfigError`, once for each bad version of the files, and goes on with the old pair.
        Whoever replaces two files does it one after the other, so a pair that does not fit is only
        believed when it is still there at the next look.
        """
        stamp = self._stamp()
        if stamp in (self._loaded, self._reported):
            return False
        try:
            fresh = server_context(self._certificate, self._key)
        except ConfigError:
            if stamp != self._suspect:
                self._suspect = stamp
                return False
            self._reported = stamp
            raise
        if self._stamp() != stamp:
            return False  # changed again while it was read: the next look decides
        self._loaded, self._reported = stamp, None

        def hand_over(
            connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
        ) -> None:
            connection.context = fresh

        # called for every handshake, with or without a server name
        self.context.sni_callback = hand_over
        return True

    def _stamp(self) -> _Stamp:
        """Give what changes when a file is replaced or rewritten; a file that is gone has a stamp
        of its own.
        """
        found = []
        for path in (self._certificate, self._key):
            if isinstance(path, Path):
                try:
                    about = path.stat()
                    found.append((about.st_ino, about.st_size, about.st_mtime_ns))
                except OSError:
                    found.append((0, 0, 0))
        return tuple(found)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Key) -> None:
    try:
        with _as_file(key) as path:
            # Without a password function OpenSSL would stop and ask on the terminal.
            context.load_cert_chain(certificate, path, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        remedy = "Name a PEM certificate chain, the gate's own certificate first, and the key it was made for, without a pass phrase."
        raise ConfigError(
            [Problem(str(certificate), f"cannot be used with its key ({_said(error)})", remedy)]
        ) from error


@contextmanager
def _as_file(key: Key) -> Iterator[Path]:
    """Give the path of the key; one that is only text stands in memory, under a path of this
    process (OpenSSL reads paths alone).
    """
    if isinstance(key, Path):
        yield key
        return
    with os.fdopen(os.memfd_create("callgate-key", os.MFD_CLOEXEC), "w", encoding="utf-8") as file:
        file.write(key)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).partition(" (_ssl.c")[0]
