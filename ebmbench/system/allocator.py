"""How the process's memory allocator treats blocks that tensors give back."""

from __future__ import annotations

import ctypes
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT = 2**30
"""Bytes: freed blocks up to this size are kept, and so much free memory altogether at the end of the heap."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Keeps freed memory for the next step; without it glibc hands it back to the system and asks for it anew.

    Every step frees and takes the same tensors of megabytes, and each page that is new to the process costs a fault:
    together a tenth to a quarter of a step of 1D training on two cores. Returns whether the C library can do this.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc: macOS, musl, Windows
        return False
    return all(mallopt(option, KEPT) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
