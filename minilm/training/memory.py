"""Memory of the process itself."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of <malloc.h>
_LARGE = 1 << 20


def hand_back_freed_memory() -> bool:
    """Asks the C library to give the memory of large tensors back as soon as they are freed.

    glibc keeps freed blocks of up to 32 MB for later and cuts them into pieces. Gradient
    checkpointing allocates and frees the same large tensors for every layer in changing order; a
    process then holds several times what it uses. Getting fresh memory each time costs some time.
    Only for tensors on the CPU, only on Linux with glibc; elsewhere nothing happens.

    Returns:
        Whether the library agreed.

    References: man 3 mallopt.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE))
