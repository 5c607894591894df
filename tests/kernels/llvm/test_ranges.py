"""Ranges of work items: each item runs once, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.ranges import RangeKernel


def counting_kernel(lanes: int) -> RangeKernel:
    """Adds 1 to the vector of each item, and writes 1 to the place of each thread that began."""

    def emit(e: Emitter, thread: Value, target: Value, began: Value) -> Callable[[Value, Value], None]:
        e.store(e.splat(1.0), e.at(began, e.mul(thread, lanes), 4))

        def add(item: Value) -> None:
            at = e.at(target, e.mul(item, lanes), 4)
            e.store(e.builder.fadd(e.load(at), e.splat(1.0)), at)

        return lambda first, end: e.loop(e.builder.sub(end, first), lambda n: add(e.add(first, n))) and None

    return RangeKernel(lanes, 2, emit)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [0, 1, 2, 3, 19, 1001])
def test_every_item_runs_once(count: int, vector_lanes: int) -> None:
    y, began = torch.zeros(count + 1, vector_lanes), torch.zeros(3, vector_lanes)
    counting_kernel(vector_lanes)(count, y.data_ptr(), began.data_ptr())
    assert (y[:-1] == 1).all()
    assert (y[-1] == 0).all()
    most = min(count, torch.get_num_threads())
    assert (began[most:] == 0).all()
    assert (began[:1] == 1).all() or not count
