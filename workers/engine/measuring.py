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

_SIZES = (1, 8, 32, 16, 4, 64, 128, 512, 256, 2, 2048, 12, 24, 48, 96, 192, 1024, 384, 768, 1536)
"""Rows, the most telling first. Between them times are interpolated."""
_NEEDED = 4
"""Sizes that are measured however long it takes."""
_BUDGET_S = 0.5
_GRAPHS_BUDGET_S = 2.0
_WARM_UP_S = 0.1
"""Steps become quicker at first, as threads and caches become ready. Until then they are not measured."""
_SHARE = 0.4
"""Of the budget, after which no further size is begun. The rest goes to more runs of those that have had least time."""


def measure(runner: Runner, max_num_seqs: int, num_pages: int) -> StepTimes:
    """Runs steps of several sizes and returns their times. The cache must be unused; it is left as it was.

    Args:
        runner: after its warm-up.
        max_num_seqs: most requests of a step.
        num_pages: size of the cache.
    """
    graphs = [] if runner.graphs is None else [b.tokens for b in runner.graphs.buckets if b.kind is Kind.GREEDY]
    most = min(max(graphs, default=max(_SIZES)), max_num_seqs * min(CYCLE_BLOCK, num_pages * PAGE_SIZE))
    sizes = sorted(set(graphs)) or [size for size in _SIZES if size <= most]
    budget = _GRAPHS_BUDGET_S if graphs else _BUDGET_S
    began = time.perf_counter()
    while time.perf_counter() - began < _WARM_UP_S:
        _run(runner, sizes[0], max_num_seqs)
    began, runs = time.perf_counter(), dict[int, list[float]]()
    for size in sizes:
        if len(runs) >= _NEEDED and time.perf_counter() - began > _SHARE * budget:
            break
        _run(runner, size, max_num_seqs)
        runs[size] = [_run(runner, size, max_num_seqs)]
    while time.perf_counter() - began < budget:
        size = min(runs, key=lambda one: sum(runs[one]))
        runs[size].append(_run(runner, size, max_num_seqs))
    # A quartile, because the quickest of many runs is not comparable to the quickest of a few.
    times = {size: sorted(seconds)[len(seconds) // 4] for size, seconds in runs.items()}
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
