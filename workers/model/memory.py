"""Settings of the memory allocator of this process."""

from __future__ import annotations

import ctypes
import functools
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 64 << 20


@functools.cache
def tune_allocator() -> None:
    """Makes memory cheap to reuse, for what is allocated later. Repeated calls do nothing.

    Every step reads all weights, and 4 KB pages slow that down. So torch's CPU allocator is asked for huge pages. This
    has no effect if it has allocated already or if the environment says otherwise. Large temporaries of a step stay
    with glibc for the next step. By default glibc returns each of them to the system, and every page is faulted in
    again.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEEP_BYTES)


def return_free_memory() -> None:
    """Returns memory that the process has freed to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
