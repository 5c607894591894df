"""Kernels whose threads take long ranges of work items, so that each reads its memory as one stream."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, compile_ir

try:
    from llvmlite import ir
except ImportError:  # then no CPU kernel is offered, see `trimode.kernels.llvm.jit.missing`
    ir = None

_LONG_SHARE = 0.9
"""Share of the items that is given out in one long range per thread. The rest levels out threads of unequal speed."""
_SHORT_RANGES = 4
"""Short ranges per thread."""
_HEAD = 6
"""Numbers of a call before its arguments: tickets, threads that began, items, threads, long and short range."""


class RangeKernel:
    """A function over ranges of work items 0 .. n - 1.

    Ranges are numbered and taken in order: one long range per thread, then short ones. A thread that comes late or
    runs slowly takes fewer, and every item runs once with any number of threads. Subnormal numbers count as 0.
    """

    def __init__(self, lanes: int, num_args: int, emit: Callable[..., Callable[[Value, Value], None]]) -> None:
        """Compiles the function.

        Args:
            lanes: float32 lanes of a vector.
            num_args: number of arguments of a call after the number of items. All are i64, addresses too.
            emit: `emit(emitter, thread, *args)` writes the code that a thread runs before its first range, and returns
                a function that writes the code for the items from a first one up to an end. Threads are numbered from
                0 in the order in which they begin.
        """
        module = ir.Module("trimode")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "work")
        e = Emitter(function.append_basic_block("entry"), lanes)
        shared, mode = function.args[0], e.drop_subnormals()
        places = range(2, num_args + _HEAD)
        limit, threads, long, short, *args = (
            e.builder.load(e.at(shared, place, 8), typ=e.i64, align=8) for place in places
        )
        began, head, body, end = (function.append_basic_block(name) for name in ("began", "next", "range", "end"))

        def take() -> tuple[Value, Value]:
            """Takes the next range: returns its first item, and how many items it has if there are so many left."""
            ticket = e.builder.atomic_rmw("add", shared, e.const(1), "monotonic")
            is_long = e.ult(ticket, threads)
            after = e.add(e.mul(threads, long), e.mul(e.builder.sub(ticket, threads), short))
            return e.builder.select(is_long, e.mul(ticket, long), after), e.builder.select(is_long, long, short)

        first, count = take()
        e.builder.cbranch(e.ult(first, limit), began, end)
        e.builder.position_at_end(began)
        thread = e.builder.atomic_rmw("add", e.at(shared, e.const(1), 8), e.const(1), "monotonic")
        emit_range = emit(e, thread, *args)
        entered = e.builder.block
        e.builder.branch(body)
        e.builder.position_at_end(head)
        next_first, next_count = take()
        e.builder.cbranch(e.ult(next_first, limit), body, end)
        e.builder.position_at_end(body)
        start, size = e.builder.phi(e.i64), e.builder.phi(e.i64)
        for phi, once, again in ((start, first, next_first), (size, count, next_count)):
            phi.add_incoming(once, entered)
            phi.add_incoming(again, head)
        emit_range(start, e.umin(limit, e.add(start, size)))
        e.builder.branch(head)
        e.builder.position_at_end(end)
        e.restore_mode(mode)
        e.builder.ret_void()
        self._engine = compile_ir(str(module))
        self.address = self._engine.get_function_address("work")
        self.alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)
        self._words = ctypes.c_int64 * (num_args + _HEAD)

    def __call__(self, num_items: int, *args: int) -> None:
        """Runs all items and returns when the last is done. The addresses are not checked."""
        self.prepare(num_items, *args).run()

    def prepare(self, num_items: int, *args: int) -> Call:
        """Returns the same as a call that has not run yet."""
        threads = min(torch.get_num_threads(), num_items)
        if threads <= 1:
            return Call(self, self._words(0, 0, num_items, 1, num_items, 1, *args), threads)
        long = max(1, int(num_items * _LONG_SHARE) // threads)
        short = max(1, (num_items - long * threads) // (threads * _SHORT_RANGES))
        return Call(self, self._words(0, 0, num_items, threads, long, short, *args), threads)
