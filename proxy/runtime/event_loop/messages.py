"""Jobs and results between a serving process and the processes of its large calls.

A message is a count, that many lengths, and the parts. The first part is pickled; the others are
its long bytes, which are so never copied into a pickle. Both ends are one program: the reader of a
message is a fork of its writer, or the other way round.
"""

import io
import pickle
import struct
from dataclasses import fields, is_dataclass
from typing import Any

# Bytes from which on a part stands by itself.
_LONG = 16_384
_COUNT = struct.Struct("!I")
_LENGTH = struct.Struct("!Q")
COUNT_BYTES = _COUNT.size


def encode(message: object) -> list[bytes]:
    """Return a message as what is sent one after the other."""
    parts: list[bytes] = []

    class _Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> int | None:
            if type(obj) is bytes and len(obj) >= _LONG:
                parts.append(obj)
                return len(parts) - 1
            return None

        def reducer_override(self, obj: Any) -> Any:
            # A compiled class has no state that pickle finds.
            if is_dataclass(obj) and not isinstance(obj, type):
                return type(obj), tuple(
                    getattr(obj, part.name) for part in fields(obj) if part.init
                )
            return NotImplemented

    pickled = io.BytesIO()
    _Pickler(pickled, pickle.HIGHEST_PROTOCOL).dump(message)
    parts.insert(0, pickled.getvalue())
    lengths = b"".join(_LENGTH.pack(len(part)) for part in parts)
    return [_COUNT.pack(len(parts)) + lengths, *parts]


def lengths_size(count: bytes) -> int:
    """Return the bytes of the lengths that follow `count`."""
    return int(_COUNT.unpack(count)[0]) * _LENGTH.size


def read_lengths(lengths: bytes) -> list[int]:
    """Return the lengths of the parts."""
    return [length for (length,) in _LENGTH.iter_unpack(lengths)]


def decode(parts: list[bytes]) -> Any:
    """Return the message of these parts."""
    pickled, *others = parts

    class _Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return others[pid]

    return _Unpickler(io.BytesIO(pickled)).load()
