"""Section: what the card can do at all. Every bound of the other sections is computed from these rates."""

from __future__ import annotations

import torch
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.records import Record
from trimode.bench.gpu.timing import time_calls


def run(bench: Bench) -> None:
    """Measures the rates of a copy, of reading and of matrix products."""
    for what, measure in (("copy", copy), ("read", read), ("matmul", matmul), ("matmul fp8", matmul_fp8)):
        bench.guarded(what, lambda measure=measure: measure(bench))  # type: ignore[misc]


def copy(bench: Bench) -> None:
    """Copies one large tensor to another; bytes read and written count."""
    count = bench.plan.copy_bytes // 4
    source = torch.randn(count, device=bench.device)
    target = torch.empty_like(source)
    timing = time_calls([lambda: target.copy_(source)], bench.device, 4 * bench.plan.spend_s)
    bench.record(
        Record(
            name="copy rate",
            value=2 * source.nbytes / timing.seconds,
            unit="byte/s",
            conditions={"bytes": source.nbytes, "timed": timing.how},
        )
    )


def read(bench: Bench) -> None:
    """Adds up one large tensor: cards read faster than they copy, and a step of few tokens reads."""
    source = torch.randn(bench.plan.copy_bytes // 4, device=bench.device)
    timing = time_calls([source.sum], bench.device, 4 * bench.plan.spend_s)
    bench.record(
        Record(
            name="read rate",
            value=source.nbytes / timing.seconds,
            unit="byte/s",
            conditions={"bytes": source.nbytes, "timed": timing.how},
        )
    )


def matmul(bench: Bench) -> None:
    """Multiplies square matrices of random numbers in the plan's dtype through torch."""
    size = bench.plan.matmul_size
    a, b = (torch.randn(size, size, device=bench.device).to(bench.plan.dtype) for _ in range(2))
    timing = time_calls([lambda: a @ b], bench.device, 4 * bench.plan.spend_s)
    _rate(bench, "matmul rate", size, timing.seconds)


def matmul_fp8(bench: Bench) -> None:
    """The same in e4m3 with one scale per matrix."""
    size = bench.plan.matmul_size
    a, b = (torch.randn(size, size, device=bench.device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=bench.device)

    def product() -> torch.Tensor:
        return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    timing = time_calls([product], bench.device, 4 * bench.plan.spend_s)
    _rate(bench, "matmul rate fp8", size, timing.seconds)


def _rate(bench: Bench, name: str, size: int, seconds: float) -> None:
    bench.record(Record(name=name, value=2 * size**3 / seconds, unit="FLOP/s", conditions={"size": size}))
