"""How long the device was busy while the host ran steps, and with which kernels, read from torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

SHOWN = 14
"""Kernels that a profile names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """What the device did during some steps."""

    span_s: float
    """From the start of the first kernel to the end of the last."""
    busy_s: float
    """Part of it in which at least one kernel or copy ran."""
    by_kernel: tuple[tuple[str, int, float], ...]
    """Name, launches and seconds, longest first."""

    @property
    def idle(self) -> float:
        """Share of the span in which the device had nothing to do, 0 to 1."""
        return 1 - self.busy_s / self.span_s if self.span_s else 0.0


def device_time(steps: Callable[[], object], device: torch.device) -> DeviceTime | None:
    """Runs `steps` under the profiler. Returns None without a GPU or if the profiler saw no kernel."""
    if device.type != "cuda":
        steps()
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        steps()
        torch.cuda.synchronize(device)
    spans = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA
    ]
    return summary(spans) if spans else None


def summary(spans: Iterable[tuple[float, float, str]]) -> DeviceTime:
    """Adds up (start, end, name) in microseconds; what overlaps counts once as busy time."""
    ordered = sorted(spans)
    seconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    busy, until = 0.0, ordered[0][0]
    for start, end, name in ordered:
        seconds[name] += end - start  # type: ignore[assignment]
        launches[name] += 1
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    by_kernel = tuple((name, launches[name], spent / 1e6) for name, spent in seconds.most_common())
    return DeviceTime(span_s=(until - ordered[0][0]) / 1e6, busy_s=busy / 1e6, by_kernel=by_kernel)


def profile_lines(found: DeviceTime, steps: int) -> str:
    """Returns the longest kernels as text, in microseconds per step."""
    parts = [
        f"{name[:60]}: {spent / steps * 1e6:.1f} us in {launches / steps:.0f} launches ({spent / found.busy_s:.1%})"
        for name, launches, spent in found.by_kernel[:SHOWN]
    ]
    return "; ".join(parts)
