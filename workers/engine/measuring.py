"""Measures what a step costs by its rows when an engine starts."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trimode.core.protocol import DecodeParams
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.chunk import Chunk
from trimode.workers.decode.context import DecodeContext
from trimode.workers.engine.buckets import CYCLE_BLOCK, Kind
from trimode.workers.engine.runner import Runner
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.model.kv_cache import PAGE_SIZE

_SIZES = (1, 8, 32, 128, 512, 2048, 4, 16, 64, 256, 1024, 2, 12, 24, 48, 96, 192, 384, 768, 1536)
"""Rows, the most telling first. Between them times are interpolated."""
_NEEDED = 3
"""Sizes that are measured however long it takes."""
_BUDGET_S = 0.5
_GRAPHS_BUDGET_S = 2.0
_RUNS = 3
"""Runs of a size, the quickest of which counts; 2 where a step alone takes a tenth of the budget."""


def measure(runner: Runner, max_num_seqs: int, num_pages: int) -> StepTimes:
    """Runs steps of several sizes and returns their times. The cache must be unused; it is left as it was.

    Args:
        runner: after its warm-up.
        max_num_seqs: most requests of a step.
        num_pages: size of the cache.
    """
    graphs = [] if runner.graphs is None else [b.tokens for b in runner.graphs.buckets if b.kind is Kind.GREEDY]
    most = min(max(graphs, default=_SIZES[5]), max_num_seqs * min(CYCLE_BLOCK, num_pages * PAGE_SIZE))
    sizes = sorted(set(graphs)) or [size for size in _SIZES if size <= most]
    budget = _GRAPHS_BUDGET_S if graphs else _BUDGET_S
    began, times = time.perf_counter(), dict[int, float]()
    for size in sizes:
        if len(times) >= _NEEDED and time.perf_counter() - began > budget:
            break
        first = _run(runner, size, max_num_seqs)
        times[size] = min(_run(runner, size, max_num_seqs) for _ in range(_RUNS - 1 if first < budget / 10 else 1))
    runner.cache.clear(range(-(-CYCLE_BLOCK // PAGE_SIZE)))
    if len(times) < 2:
        return StepTimes()
    return StepTimes({size: 1000 * seconds for size, seconds in times.items()}, padded=len(times) == len(set(graphs)))


def _run(runner: Runner, rows: int, max_num_seqs: int) -> float:
    """Runs a step of so many rows, of as many requests as there can be, and returns its seconds."""
    began = time.perf_counter()
    runner.run(_step(rows, min(rows, max_num_seqs)))
    return time.perf_counter() - began


def _step(rows: int, num_requests: int) -> Sequence[ScheduledChunk]:
    params = DecodeParams(mode="ar", max_new_tokens=rows, block_length=1, threshold=None)
    context = DecodeContext(0, frozenset(), 1)
    each, more = divmod(rows, num_requests)
    scheduled = []
    for number in range(num_requests):
        length = each + (number < more)
        request = Request("measured", ArState([0], params, context), pages=list(range(-(-length // PAGE_SIZE))))
        chunk = Chunk("decode", [0] * length, 0, causal=True, keep_kv=False, rows=range(length), purpose="decode")
        scheduled.append(ScheduledChunk(request, chunk))
    return scheduled
