"""Seconds of work on the device: medians over replays of a graph of many calls, so that no launch gap counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

Call = Callable[[], object]
CALLS_PER_GRAPH = 24
MIN_SAMPLES = 5
MAX_SAMPLES = 200


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call takes."""

    seconds: float
    how: str
    """`graph` (device time), `events` (device time with launch gaps) or `clock` (on a CPU)."""


def time_calls(calls: Sequence[Call], device: torch.device, spend_s: float) -> Timing:
    """Returns the median time of one call.

    Args:
        calls: do the same work on different data; they are called in turn.
        device: where they compute.
        spend_s: seconds to measure for, warm-up not included.
    """
    if device.type != "cuda":
        return Timing(median(_clock(calls)), "clock")
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for call in (*calls, calls[0]):
            call()
    torch.cuda.synchronize(device)
    times = -(-CALLS_PER_GRAPH // len(calls))
    many = [call for _ in range(times) for call in calls]
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for call in many:
                call()
    except RuntimeError:  # it waits for the device, which a capture does not allow
        torch.cuda.synchronize(device)
        return Timing(_samples(lambda: [call() for call in many], device, spend_s) / len(many), "events")
    return Timing(_samples(graph.replay, device, spend_s) / len(many), "graph")


def time_host(call: Call, spend_s: float) -> float:
    """Returns the median seconds by the host's clock of a call that ends with its results on the host."""
    call()
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < MIN_SAMPLES or time.perf_counter() - began < spend_s:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        if len(seconds) >= MAX_SAMPLES or not spend_s:
            break
    return median(seconds)


def _clock(calls: Sequence[Call]) -> list[float]:
    seconds = []
    for call in calls:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def _samples(run: Call, device: torch.device, spend_s: float) -> float:
    """Median seconds of `run` by events on the device."""
    run()
    torch.cuda.synchronize(device)
    milliseconds: list[float] = []
    began = time.perf_counter()
    while len(milliseconds) < MIN_SAMPLES or time.perf_counter() - began < spend_s:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        milliseconds.append(start.elapsed_time(end))
        if len(milliseconds) >= MAX_SAMPLES:
            break
    return median(milliseconds) / 1e3
