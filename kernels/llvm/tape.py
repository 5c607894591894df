"""Calls of CPU kernels that are prepared once and run many times: a tape of them is one call from Python.

Preparing a call takes Python about as long as a small kernel runs. A model makes the same calls at the same addresses
in every step, so they are written down once and then run by one compiled function.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from trimode.kernels.llvm.jit import Call, compile_ir, gomp_parallel

_ENTRY = 3
"""Words of a call in the table: address of the code, address of its words, threads."""
_RUN = """
define void @run(ptr %table, i64 %count) {{
entry:
  br label %next
next:
  %number = phi i64 [ 0, %entry ], [ %following, %done ]
  %ended = icmp uge i64 %number, %count
  br i1 %ended, label %end, label %call
call:
  %place = mul i64 %number, {entry}
  %code_at = getelementptr i64, ptr %table, i64 %place
  %code = load ptr, ptr %code_at
  %words_at = getelementptr i64, ptr %code_at, i64 1
  %words = load ptr, ptr %words_at
  %threads_at = getelementptr i64, ptr %code_at, i64 2
  %threads = load i64, ptr %threads_at
  store i64 0, ptr %words
  %second = getelementptr i64, ptr %words, i64 1
  store i64 0, ptr %second
  %several = icmp ugt i64 %threads, 1
  br i1 %several, label %parallel, label %alone
parallel:
  %num_threads = trunc i64 %threads to i32
  call void inttoptr (i64 {gomp_parallel} to ptr)(ptr %code, ptr %words, i32 %num_threads, i32 0)
  br label %done
alone:
  call void %code(ptr %words)
  br label %done
done:
  %following = add i64 %number, 1
  br label %next
end:
  ret void
}}
"""
"""Runs calls in their order, as `Call.run` does. 0 are the two counters of each call before it begins."""


class UnboundError(Exception):
    """An operator cannot be bound to fixed memory, because no CPU kernel takes its tensors. Says why."""


def check_bound(refused: str | None) -> None:
    """Raises UnboundError if a CPU kernel refused tensors, with its reason."""
    if refused is not None:
        raise UnboundError(refused)


class Scratch:
    """Memory that calls use only while they run, one after the other. It is kept as long as this object."""

    def __init__(self) -> None:
        self._pieces: list[torch.Tensor] = []

    def room(self, num_bytes: int) -> int:
        """Returns the address of so many bytes. Later calls get the same memory where it is large enough."""
        if not self._pieces or self._pieces[-1].nbytes < num_bytes:
            self._pieces.append(torch.empty(num_bytes, dtype=torch.uint8))
        return self._pieces[-1].data_ptr()


class Tape:
    """Calls that run in their order. What their arguments point to is not kept."""

    def __init__(self, calls: Sequence[Call]) -> None:
        """Writes the table of the calls, at least one."""
        self._calls = tuple(calls)  # keeps their words
        entries = [(call.kernel.address, ctypes.addressof(call.words), call.threads) for call in calls]
        self._table = (ctypes.c_int64 * (_ENTRY * len(entries)))(*[word for entry in entries for word in entry])
        self._run = _runner()[0]

    def run(self, first: int = 0, end: int | None = None) -> None:
        """Runs the calls numbered `first` to `end` - 1; None = to the last."""
        count = (len(self._calls) if end is None else end) - first
        self._run(ctypes.addressof(self._table) + 8 * _ENTRY * first, count)


@functools.cache
def _runner() -> tuple[Any, Any]:
    """Returns `run(table, count)`, and what holds its code."""
    address = ctypes.cast(gomp_parallel(), ctypes.c_void_p).value
    engine = compile_ir(_RUN.format(entry=_ENTRY, gomp_parallel=address))
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("run"))
    return run, engine
