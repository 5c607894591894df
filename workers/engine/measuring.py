"""Measures what a step costs by its rows and requests when an engine starts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

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

_SIZES = (1, 8, 32, 16, 4, 64, 128, 512, 256, 1024, 2, 2048, 12, 24, 48, 96, 192, 384, 768, 1536)
"""Rows, the most telling first. Between them times are interpolated."""
_MANY = 64
"""Requests of the step that shows what a request costs beside its rows."""
_NEEDED = 5
"""Sizes that are measured however long it takes."""
_BUDGET_S = 0.5
_GRAPHS_BUDGET_S = 2.0
_WARM_UP_S = 0.1
"""Steps become quicker at first, as threads and caches become ready. Until then they are not measured."""
_SHARE = 0.4
"""Of the budget, after which no further size is begun. The rest goes to more runs of those that have had least time."""


def measure(runner: Runner, max_num_seqs: int, num_pages: int) -> StepTimes:
    """Runs steps of several sizes and returns their times. The cache must be unused; it is left as it was.

    Without graphs rows are those of as few requests as can be, and one size is measured with many requests too. Graphs
    are captured for as many requests as there can be.

    Args:
        runner: after its warm-up.
        max_num_seqs: most requests of a step.
        num_pages: size of the cache.
    """
    block = min(CYCLE_BLOCK, num_pages * PAGE_SIZE)
    graphs = [] if runner.graphs is None else [b.tokens for b in runner.graphs.buckets if b.kind is Kind.GREEDY]
    most = min(max(graphs, default=max(_SIZES)), max_num_seqs * block)
    sizes = sorted(set(graphs)) or [size for size in _SIZES if size <= most]
    steps = [(size, min(size, max_num_seqs) if graphs else -(-size // block)) for size in sizes]
    many = max(size for size in _SIZES if size <= min(max_num_seqs, _MANY))
    if not graphs and many > 1:
        few = (many, -(-many // block))
        steps.remove(few)
        steps[_NEEDED - 2 : _NEEDED - 2] = [(many, many), few]
    budget = _GRAPHS_BUDGET_S if graphs else _BUDGET_S
    began = time.perf_counter()
    while time.perf_counter() - began < _WARM_UP_S:
        _run(runner, *steps[0])
    began, runs = time.perf_counter(), dict[tuple[int, int], list[float]]()
    for step in steps:
        if len(runs) >= _NEEDED and time.perf_counter() - began > _SHARE * budget:
            break
        _run(runner, *step)
        runs[step] = [_run(runner, *step)]
    while time.perf_counter() - began < budget:
        step = min(runs, key=lambda one: sum(runs[one]))
        runs[step].append(_run(runner, *step))
    # A quartile, because the quickest of many runs is not comparable to the quickest of a few.
    times = {step: 1000 * sorted(seconds)[len(seconds) // 4] for step, seconds in runs.items()}
    runner.cache.clear(range(-(-CYCLE_BLOCK // PAGE_SIZE)))
    if graphs:
        return StepTimes(undisturbed({size: ms for (size, _), ms in times.items()}), padded=len(times) == len(steps))
    return of_few_and_many(times, many)


def of_few_and_many(times: Mapping[tuple[int, int], float], many: int) -> StepTimes:
    """Returns the times of steps from those of some (rows, requests); those of `many` rows may be there twice."""
    few = {step[0]: (step[1], ms) for step, ms in times.items() if step != (many, many) or many == 1}
    if len(few) < 2:
        return StepTimes()
    each = 0.0
    if many > 1 and many in few and (many, many) in times:
        requests, ms = few[many]
        each = max(0.0, (times[many, many] - ms) / (many - requests))
    pure = {rows: max(ms - each * (requests - 1), 0.1 * ms) for rows, (requests, ms) in few.items()}
    return StepTimes(undisturbed(pure), each=each)


def undisturbed(times: Mapping[int, float]) -> dict[int, float]:
    """Returns times that never fall as rows are added: none is above that of more rows.

    What disturbs a step makes it longer, so of two times that contradict each other the longer one is wrong.
    """
    rows = sorted(times)
    least = itertools.accumulate((times[size] for size in reversed(rows)), min)
    return dict(zip(rows, [*least][::-1], strict=True))


def _run(runner: Runner, rows: int, num_requests: int) -> float:
    """Runs a step of so many rows of so many requests, and returns its seconds."""
    began = time.perf_counter()
    runner.run(_step(rows, num_requests))
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
