"""Signs checkpoints (`proxy.audit.format.checkpoint`) with the Ed25519 key of a log."""

from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxy.audit.format.checkpoint import is_key_name, key_id


class Signer:
    """A signer of one log's checkpoints. `origin` is both the log's name and the key's."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        """Raise ValueError for an `origin` with a space or a plus sign."""
        if not is_key_name(origin):
            raise ValueError("an origin name has no space and no plus sign")
        self.origin = origin
        self._key = key
        self._id = key_id(origin, key.public_key().public_bytes_raw())

    def sign(self, size: int, root: bytes) -> bytes:
        """Return the signed note for a tree."""
        text = f"{self.origin}\n{size}\n{b64encode(root).decode()}\n".encode()
        signature = b64encode(self._id + self._key.sign(text))
        return text + b"\n\xe2\x80\x94 " + self.origin.encode() + b" " + signature + b"\n"
