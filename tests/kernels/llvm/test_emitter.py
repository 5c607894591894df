"""The shared vector operations, compiled and run on this CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel


def run(lanes: int, x: torch.Tensor, y: torch.Tensor, operation: Callable[[Emitter, Value], Value]) -> torch.Tensor:
    """Writes the operation of every vector of x to y, in y's dtype."""

    def emit(e: Emitter, source: Value, target: Value) -> Callable[[Value], None]:
        def emit_item(item: Value) -> None:
            at = e.mul(item, lanes)
            e.store(operation(e, e.load(e.at(source, at, 4))), e.at(target, at, y.element_size()), y.element_size())

        return emit_item

    ParallelKernel(lanes, 2, emit)(len(x) // lanes, x.data_ptr(), y.data_ptr())
    return y


def test_exp_over_its_range(vector_lanes: int) -> None:
    x = torch.cat((torch.linspace(-87, 87.99, 4091), torch.tensor([0.0, -math.inf, -88.0, math.nan, 200.0])))
    y = run(vector_lanes, x, torch.empty_like(x), lambda e, value: e.exp(value))
    exact = x[:-4].double().exp()
    assert ((y[:-4] - exact).abs() / exact).max() <= 2 * 2**-23
    assert y[-5:-2].tolist() == [1.0, 0.0, 0.0]
    assert y[-2].isnan()
    assert y[-1] == math.inf


def test_bfloat16_is_rounded_to_even_as_torch_does(vector_lanes: int) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (4096,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    bits[:8] = torch.tensor([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, 0x00000001, 0x00008000, 0])
    x = bits.view(torch.float32)
    y = run(vector_lanes, x, torch.empty(len(x), dtype=torch.bfloat16), lambda _, value: value)
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y[~x.isnan()].view(torch.int16), x.bfloat16()[~x.isnan()].view(torch.int16))


def test_reduce_puts_the_result_into_every_lane(vector_lanes: int) -> None:
    x = torch.arange(4 * vector_lanes, dtype=torch.float32)
    y = run(vector_lanes, x, torch.empty_like(x), lambda e, value: e.reduce(value, e.builder.fadd))
    assert torch.equal(y.view(4, -1), x.view(4, -1).sum(1, keepdim=True).expand(4, vector_lanes))


def test_transpose_of_a_square(vector_lanes: int) -> None:
    def emit(e: Emitter, source: Value, target: Value) -> Callable[[Value], None]:
        def emit_item(_: Value) -> None:
            rows = [e.load(e.at(source, n * vector_lanes, 4)) for n in range(vector_lanes)]
            for n, column in enumerate(e.transpose(rows)):
                e.store(column, e.at(target, n * vector_lanes, 4))

        return emit_item

    x = torch.arange(vector_lanes**2, dtype=torch.float32).view(vector_lanes, vector_lanes)
    y = torch.empty_like(x)
    ParallelKernel(vector_lanes, 2, emit)(1, x.data_ptr(), y.data_ptr())
    assert torch.equal(y, x.T)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 1001])
def test_every_item_runs_once(count: int, small: bool, vector_lanes: int) -> None:
    def emit(e: Emitter, target: Value) -> Callable[[Value], None]:
        def emit_item(item: Value) -> None:
            at = e.at(target, e.mul(item, vector_lanes), 4)
            e.store(e.builder.fadd(e.load(at), e.splat(1.0)), at)

        return emit_item

    y = torch.zeros(count + 1, vector_lanes)
    ParallelKernel(vector_lanes, 1, emit, small=small)(count, y.data_ptr())
    assert torch.equal(y[:count], torch.ones(count, vector_lanes))
    assert torch.equal(y[count], torch.zeros(vector_lanes))
