"""The C library's allocator: large blocks go back to the system when they are freed.

glibc maps a large block on its own, and gives it back when it is freed. But each such block raises
the size from which that is done, up to 32 MiB. Later bodies and answers then come from the heap,
which keeps them, and holds free memory of as much as it ever held in use. With a fixed size the
memory of the process follows the memory budget (`proxy.common.memory_budget`).
"""

import ctypes

# Bytes from which a block is mapped on its own. Those of TLS and of bodies that arrive are larger.
MAPPED_BYTES = 65_536
_M_MMAP_THRESHOLD = -3  # malloc.h


def return_large_blocks() -> bool:
    """Fix the size from which blocks are mapped on their own; return whether that has an effect.

    A C library other than glibc has no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES))
