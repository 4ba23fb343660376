"""Which checkpoints count as signed: those of a known key, for a log that the key's name covers."""

from collections.abc import Sequence

from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, check

Keys = Sequence[tuple[str, bytes]]
"""Public keys with their names."""


def checkpoint_signed_by(note: bytes, keys: Keys) -> Checkpoint:
    """Return the checkpoint of a note that one of `keys` signed for a log its name covers.

    Raises:
        BadCheckpointError: it is not a checkpoint, or no such key signed it.

    """
    found = check(note, [key for _, key in keys])
    if not any(found.origin == name or found.origin.startswith(f"{name}/") for name, _ in keys):
        raise BadCheckpointError(f"the key is not for the log {found.origin}")
    return found
