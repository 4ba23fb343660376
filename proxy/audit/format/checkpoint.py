"""Signed checkpoints: the C2SP formats ``signed-note`` and ``tlog-checkpoint`` (c2sp.org), Ed25519.

A checkpoint's text is three lines (origin name of the log, number of records, base64 root); then an
empty line; then one line a signature: ``— <key name> <base64 of 4 bytes key id and the
signature>``. The key's name is the log's origin name. The key id is the beginning of ``SHA-256(name
|| 0x0A || 0x01 || public key)``. Other signatures (witnesses, further algorithms) may precede or
follow; a verifier ignores those of other keys. Extension lines are accepted and ignored.

A log keeps its checkpoints in ``NNNNNNNN.checkpoints`` next to the segment they were signed in, one
after another, each followed by an empty line. A public key is written ``name+keyid+base64``, the
form of other tools for signed notes.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+]+")
_NOTE = re.compile(
    rb"(?P<text>(?:[^\n]+\n){3,})\n(?P<signatures>(?:\xe2\x80\x94 [^ \n]+ [^ \n]+\n)+)\n"
)


class BadCheckpointError(ValueError):
    """A note that is not a checkpoint, or has no valid signature by a given key."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed tree head: the first `size` records of the log `origin` have this `root`.

    `note` is the complete signed note.
    """

    origin: str
    size: int
    root: bytes
    note: bytes


def key_id(name: str, public: bytes) -> bytes:
    """Return the four bytes that distinguish keys of one name."""
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def is_key_name(name: str) -> bool:
    """Return whether a key, and so a log, may have this name: no white space and no plus sign."""
    return _NAME.fullmatch(name) is not None


def format_key(name: str, public: bytes) -> str:
    """Return a public key as text, ``name+keyid+base64``."""
    return f"{name}+{key_id(name, public).hex()}+{b64encode(_ED25519 + public).decode()}"


def parse_keys(text: str) -> list[tuple[str, bytes]]:
    """Parse public keys, one a line, as (name, key). Raises BadCheckpointError."""
    keys = []
    for line in text.split():
        name, _, rest = line.partition("+")
        given, _, encoded = rest.partition("+")
        try:
            data = b64decode(encoded, validate=True)
        except binascii.Error:
            data = b""
        if len(data) != 33 or data[:1] != _ED25519 or key_id(name, data[1:]).hex() != given:
            raise BadCheckpointError("not an Ed25519 public key of the form name+keyid+base64")
        keys.append((name, data[1:]))
    if not keys:
        raise BadCheckpointError("no public key found")
    return keys


def parse(note: bytes) -> Checkpoint:
    """Parse a note as a checkpoint without checking its signatures. Raises BadCheckpointError."""
    found = _NOTE.fullmatch(note + b"\n")
    if found is None:
        raise BadCheckpointError("not a signed note")
    try:
        origin, size, root = found["text"].decode().split("\n")[:3]
        if (
            not is_key_name(origin)
            or not size.isascii()
            or not size.isdigit()
            or str(int(size)) != size
        ):
            raise BadCheckpointError("not a checkpoint")
        data = b64decode(root, validate=True)
    except ValueError:
        raise BadCheckpointError("not a checkpoint") from None
    if len(data) != 32 or b64encode(data).decode() != root:
        raise BadCheckpointError("the root is not a SHA-256 hash")
    return Checkpoint(origin, int(size), data, note)


def check(note: bytes, keys: Iterable[bytes]) -> Checkpoint:
    """Return the checkpoint of a note that is signed in the log's name with one of `keys`.

    Raises:
        BadCheckpointError: there is no such signature, or it does not verify.

    """
    checkpoint = parse(note)
    text, _, signatures = note.partition(b"\n\n")
    for key in keys:
        wanted = key_id(checkpoint.origin, key)
        for line in signatures.splitlines():
            try:
                _, name, encoded = line.decode().split(" ")
                data = b64decode(encoded, validate=True)
            except ValueError:  # not three parts, not UTF-8 or not base64
                continue
            if (
                name != checkpoint.origin
                or data[:4] != wanted
                or b64encode(data).decode() != encoded
            ):
                continue
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(data[4:], text + b"\n")
            except InvalidSignature:
                raise BadCheckpointError("the signature does not verify") from None
            return checkpoint
    raise BadCheckpointError("no signature by a known key")


def split(data: bytes) -> Iterator[bytes]:
    """Yield the notes of a checkpoints file, also an incomplete last one, which does not parse."""
    at = 0
    while at < len(data):
        found = _NOTE.match(data, at)
        if found is None:
            yield data[at:]
            return
        yield data[at : found.end() - 1]
        at = found.end()


def complete_length(data: bytes) -> int:
    """Return the length of the complete notes of a file; a crash can leave part of one."""
    at = 0
    while (found := _NOTE.match(data, at)) is not None:
        at = found.end()
    return at
