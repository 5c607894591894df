"""Settings of the process' memory allocator."""

from __future__ import annotations

import ctypes
import functools
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 64 << 20


@functools.cache
def tune_allocator() -> None:
    """Makes memory of the process cheap to use again, once; acts on what is allocated later.

    Weights are streamed in every step, which 4 KB pages slow down: torch's CPU allocator is asked for huge ones, if it
    has not allocated yet (the environment has the last word). Large temporaries of a step stay with glibc for the next
    step, where by default each is returned to the system and every page of it faulted in again.
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
