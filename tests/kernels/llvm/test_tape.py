"""Tapes: calls run in their order, as often as they are asked to, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel
from trimode.kernels.llvm.ranges import RangeKernel
from trimode.kernels.llvm.tape import Scratch, Tape, UnboundError, check_bound


def changing(lanes: int, factor: float, added: float) -> Callable[[Emitter, Value, Value], None]:
    """Writes the code of an item: its vector becomes `vector * factor + added`."""

    def change(e: Emitter, target: Value, item: Value) -> None:
        at = e.at(target, e.mul(item, lanes), 4)
        e.store(e.fma(e.load(at), e.splat(factor), e.splat(added)), at)

    return change


def taken_singly(lanes: int) -> ParallelKernel:
    change = changing(lanes, 2.0, 0.0)
    return ParallelKernel(lanes, 1, lambda e, target: lambda item: change(e, target, item))


def taken_in_ranges(lanes: int) -> RangeKernel:
    change = changing(lanes, 1.0, 1.0)

    def emit(e: Emitter, _thread: Value, target: Value) -> Callable[[Value, Value], None]:
        return lambda first, end: (
            e.loop(e.builder.sub(end, first), lambda n: change(e, target, e.add(first, n))) and None
        )

    return RangeKernel(lanes, 1, emit)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [0, 1, 19])
def test_calls_run_in_order_and_again(count: int, vector_lanes: int) -> None:
    y = torch.ones(count + 1, vector_lanes)
    doubles, adds = (kind(vector_lanes).prepare(count, y.data_ptr()) for kind in (taken_singly, taken_in_ranges))
    tape = Tape([doubles, adds, doubles])  # y becomes 2 * (2 * y + 1)
    tape.run()
    tape.run()
    assert (y[:-1] == 26).all()
    assert (y[-1] == 1).all()


@pytest.mark.usefixtures("threads")
def test_a_part_of_the_calls_runs(vector_lanes: int) -> None:
    y = torch.ones(3, vector_lanes)
    doubles, adds = (kind(vector_lanes).prepare(3, y.data_ptr()) for kind in (taken_singly, taken_in_ranges))
    tape = Tape([doubles, adds, adds])
    tape.run(1, 2)
    assert (y == 2).all()
    tape.run(1)
    assert (y == 4).all()
    tape.run(2, 2)
    assert (y == 4).all()


def test_scratch_is_shared_where_it_is_large_enough() -> None:
    scratch = Scratch()
    large = scratch.room(1000)
    assert scratch.room(10) == large
    larger = scratch.room(2000)
    assert larger != large
    assert scratch.room(1500) == larger


def test_the_reason_of_a_refusal_is_kept() -> None:
    check_bound(None)
    with pytest.raises(UnboundError, match="mask words"):
        check_bound("mask words")
