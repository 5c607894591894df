"""Measures what a step costs by its rows and requests when an engine starts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Mapping
from typing import Protocol

from trimode.core.errors import GenerationError
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.buckets import CYCLE_BLOCK, Kind
from trimode.workers.engine.pages import PageAllocator
from trimode.workers.engine.runner import Runner
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
_CYCLES, _RUN_S = 8, 0.03
"""Most cycles of a run, and seconds after which no further one begins."""


class Measured(Protocol):
    """An engine without requests."""

    runner: Runner
    allocator: PageAllocator

    @property
    def max_num_seqs(self) -> int:
        """Most requests that run at once."""

    @property
    def waiting(self) -> Collection[Request]:
        """Requests that have not begun."""

    @property
    def busy(self) -> bool:
        """True if a step has work."""

    def add(self, request_id: str, prompt_ids: list[int], params: DecodeParams) -> Request:
        """Queues a request."""

    def cancel(self, sequence: Request) -> None:
        """Ends a request at the next step."""

    def step(self) -> list[Request]:
        """Runs a step. Returns the requests that ended."""


def measure(engine: Measured) -> StepTimes:
    """Runs requests of several widths and returns the times of their steps. Steps, pages and cache are as the engine's.

    What runs is what the mode auto will run: steps of ar, and cycles of a draft and a verify, from the choice of what
    runs to the hand-out of the tokens. Without graphs rows are those of as few requests as can be, and one size is
    measured with many requests too. Graphs are captured for as many requests as there can be.

    Args:
        engine: after its warm-up. Its counters must be set to zero afterwards.
    """
    graphs = engine.runner.graphs
    sizes_of_graphs = [] if graphs is None else [b.tokens for b in graphs.buckets if b.kind is Kind.GREEDY]
    block = min(CYCLE_BLOCK, engine.allocator.num_pages * PAGE_SIZE // 4)
    most = min(max(sizes_of_graphs, default=max(_SIZES)), engine.max_num_seqs * block)
    sizes = sorted(set(sizes_of_graphs)) or [size for size in _SIZES if size <= most]
    steps = [(size, min(size, engine.max_num_seqs) if sizes_of_graphs else -(-size // block)) for size in sizes]
    many = max(size for size in _SIZES if size <= min(engine.max_num_seqs, _MANY))
    if not sizes_of_graphs and many > 1:
        few = (many, -(-many // block))
        steps.remove(few)
        steps[_NEEDED - 2 : _NEEDED - 2] = [(many, many), few]
    pages: set[int] = set()
    runs = _run_all(engine, steps, _GRAPHS_BUDGET_S if sizes_of_graphs else _BUDGET_S, pages)
    engine.runner.cache.clear(sorted(pages))
    # A quartile, because the quickest of many runs is not comparable to the quickest of a few.
    times = {step: 1000 * sorted(seconds)[len(seconds) // 4] for step, seconds in runs.items()}
    if sizes_of_graphs and len(times) > 1:
        return StepTimes(undisturbed({size: ms for (size, _), ms in times.items()}), padded=len(times) == len(steps))
    return of_few_and_many(times, many)


def _run_all(
    engine: Measured, steps: list[tuple[int, int]], budget: float, pages: set[int]
) -> dict[tuple[int, int], list[float]]:
    """Returns the seconds of a step in the cycles that ran, by rows and requests. Sizes without room are left out."""
    began = time.perf_counter()
    while time.perf_counter() - began < _WARM_UP_S:
        _run(engine, *steps[0], pages)
    began, runs = time.perf_counter(), dict[tuple[int, int], list[float]]()
    for step in steps:
        if len(runs) >= _NEEDED and time.perf_counter() - began > _SHARE * budget:
            break
        first, *more = _run(engine, *step, pages) or [0.0]
        if first:
            runs[step] = more or [first]  # the first may have compiled
    while runs and time.perf_counter() - began < budget:
        step = min(runs, key=lambda one: sum(runs[one]))
        runs[step] += _run(engine, *step, pages)
    return runs


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


def _run(engine: Measured, rows: int, num_requests: int, pages: set[int]) -> list[float]:
    """Runs a few cycles of requests that together have so many rows, and adds the pages that they took.

    Returns:
        Seconds of a step in each cycle; empty if the requests do not fit.
    """
    each, more = divmod(rows, num_requests)
    widths = [each + (number < more) for number in range(num_requests)]
    room = engine.allocator.num_pages // num_requests * PAGE_SIZE - 1 - 2 * widths[0]
    length = min((_CYCLES + 1) * widths[0], room, engine.runner.model.config.max_position_embeddings - 1)
    if length < 2 * widths[0]:
        return []
    requests: list[Request] = []
    try:
        requests += [engine.add("measured", [0], _params(width, length)) for width in widths]
        return _cycles(engine, requests, pages)
    except GenerationError:  # the model's context is shorter than a block
        return []
    finally:
        for request in requests:
            engine.cancel(request)
        while engine.busy:
            engine.step()


def _cycles(engine: Measured, requests: list[Request], pages: set[int]) -> list[float]:
    """Runs the requests until one ends or the time of a run is over. Returns as `_run`."""
    state, seconds = requests[0].state, list[float]()
    while not all(request.state.output for request in requests):  # they read their prompts
        if engine.step() or engine.waiting:
            return []
        pages.update(page for request in requests for page in request.pages)
    start = began = time.perf_counter()
    forwards = _forwards(state)
    while began - start < _RUN_S and not engine.step():
        now, (cycles, steps) = time.perf_counter(), _forwards(state)
        if cycles > forwards[0]:
            seconds.append((now - began) / (steps - forwards[1]))
            began, forwards = now, (cycles, steps)
    return seconds


def _forwards(state: DecodeState) -> tuple[int, int]:
    """Returns the number of finished cycles and of forwards in them, if a cycle has just ended."""
    cycles = state.forwards["decode"] + state.forwards["verify"]
    return cycles, cycles + state.forwards["draft"]


def _params(width: int, length: int) -> DecodeParams:
    if width == 1:
        return DecodeParams(mode="ar", max_new_tokens=length, block_length=1, threshold=None, ignore_eos=True)
    return DecodeParams(mode="linear_spec", max_new_tokens=length, block_length=width, threshold=0.0, ignore_eos=True)
