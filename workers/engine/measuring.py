"""Measures what a step costs by its rows and requests when an engine starts."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from trimode.core.errors import GenerationError
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.buckets import BLOCK, CYCLE_BLOCK, Kind
from trimode.workers.engine.pages import PageAllocator
from trimode.workers.engine.runner import Runner
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.model.kv_cache import PAGE_SIZE

_MOST_ROWS = 512
"""Of steps with fewer rows per request than a block."""
_CONTEXT = 512
"""Tokens before the rows in the steps that show what a context costs."""
_MANY = 64
"""Requests of the step that shows what a request costs beside its rows."""
_NEEDED = 5
"""Sizes that are measured however long it takes."""
_BUDGET_S = 0.8
_GRAPHS_BUDGET_S = 2.0
_WARM_UP_S = 0.1
"""Steps become quicker at first, as threads and caches become ready. Until then they are not measured."""
_SHARE = 0.9
"""Of the budget, after which no further size is begun. The rest goes to more runs of those that have had least time."""
_SLOW_S = 1.0
"""Steps that are longer are measured once only, although the first of its size may compile, for 0.1 seconds as a rule.
Those that are longer than their rows one at a time surely did for longer."""
_CYCLES, _RUN_S = 8, 0.01
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


@dataclass(frozen=True, slots=True)
class _Step:
    """What a measured step runs."""

    rows: int
    num_requests: int
    context: int
    """Tokens of each request before its rows."""


def measure(engine: Measured) -> StepTimes:
    """Runs requests of several widths and returns the times of their steps. Steps, pages and cache are as the engine's.

    What runs is what the mode auto will run: steps of ar, and cycles of a draft and a verify, from the choice of what
    runs to the hand-out of the tokens. Without graphs rows are those of as few requests as can be, and one size is
    measured with many requests too. With graphs all steps are those of ar, or drafts with their verify as one graph:
    see `StepKinds`. Some sizes are measured with a context too; it is not computed, zeros stand in its place.

    Args:
        engine: after its warm-up and before its first request. Its counters must be set to zero afterwards.
    """
    graphs = engine.runner.graphs
    captured = [] if graphs is None else sorted({b.tokens for b in graphs.buckets if b.kind is Kind.GREEDY})
    captured = [size for size in captured if size <= CYCLE_BLOCK * engine.max_num_seqs]
    num_tokens = engine.allocator.num_pages * PAGE_SIZE
    many = _power_of_two(min(engine.max_num_seqs, _MANY))
    if captured:
        steps = [_Step(size, _requests_for(size, engine.max_num_seqs), 0) for size in captured]
        needed = steps[:: max(1, len(steps) // _NEEDED)]
    else:
        steps = _grid(many, engine.max_num_seqs, min(CYCLE_BLOCK, _power_of_two(num_tokens // 4)))
        needed = steps[:_NEEDED]
    context = min(_CONTEXT, num_tokens // max(step.num_requests for step in needed) // 2) // PAGE_SIZE * PAGE_SIZE
    with_context = [replace(step, context=context) for step in needed if context]
    steps = list(dict.fromkeys((*needed, *with_context, *steps)))
    runs = _run_all(engine, steps, _GRAPHS_BUDGET_S if captured else _BUDGET_S)
    # A quartile, because the quickest of many runs is not comparable to the quickest of a few.
    times = {step: 1000 * sorted(seconds)[len(seconds) // 4] for step, seconds in runs.items()}
    plain = {(step.rows, step.num_requests): ms for step, ms in times.items() if not step.context}
    slopes = {
        (step.rows, step.num_requests): max(0.0, ms - plain[step.rows, step.num_requests]) / step.context
        for step, ms in times.items()
        if step.context
    }
    return step_times(plain, slopes, 1 if captured else many, padded={rows for rows, _ in plain} == set(captured))


def _requests_for(size: int, most: int) -> int:
    """Returns how many requests share the rows of a graph: one row each, or blocks that run as whole cycles."""
    return size if size <= most else max(1, min(size // BLOCK, most))


def _grid(many: int, most_requests: int, block: int) -> list[_Step]:
    """Returns steps of powers of 2 of requests, with 1 to `block` rows each: first those that say most."""
    widths = [1, *(width for width in (4, 8, 16, 32, 64, 128) if width <= block)]
    numbers = [2**power for power in range(many.bit_length())]
    points = [(width * number, number) for number in numbers for width in widths]
    points += [(rows, rows // block) for rows in (1024, 2048) if rows // block > many]
    few = (many, -(-many // block))
    first = [(1, 1), (min(8, block), 1), (block, 1), (many, many), few]
    rest = sorted(set(points).difference(first))
    return [
        _Step(rows, requests, 0)
        for rows, requests in (*dict.fromkeys(first), *rest)
        if requests <= most_requests and (rows <= _MOST_ROWS or requests * block == rows)
    ]


def _power_of_two(most: int) -> int:
    """Returns the largest power of 2 that is not above a number, which is at least 1."""
    return 1 << (most.bit_length() - 1)


def _run_all(engine: Measured, steps: list[_Step], budget: float) -> dict[_Step, list[float]]:
    """Returns the seconds of a step in each cycle that ran. Sizes without room are left out."""
    pages: set[int] = set()
    began = time.perf_counter()
    while time.perf_counter() - began < _WARM_UP_S:
        _run(engine, steps[0], pages)
    began, runs = time.perf_counter(), dict[_Step, list[float]]()
    for step in steps:
        if len(runs) >= 2 * _NEEDED and time.perf_counter() - began > _SHARE * budget:
            break
        if step.context and replace(step, context=0) not in runs:
            continue
        first, *more = _run(engine, step, pages) or [0.0]
        compiled = first > 2 * step.rows * min(runs.get(steps[0], [math.inf]))
        if first and not more and (first < _SLOW_S or compiled):
            more = _run(engine, step, pages)
        if first:
            runs[step] = more or [first]
    while runs and time.perf_counter() - began < budget:
        step = min(runs, key=lambda one: sum(runs[one]))
        runs[step] += _run(engine, step, pages)
    if pages:
        engine.runner.cache.clear(sorted(pages))
    return runs


Times = Mapping[tuple[int, int], float]
"""By rows and requests."""


def step_times(times: Times, slopes: Times, many: int, *, padded: bool = False) -> StepTimes:
    """Returns the times of steps from those of some.

    Args:
        times: milliseconds without context. The least number of requests for each number of rows gives the times of
            rows, and the steps of `many` rows what further requests cost. The others correct the sum of both.
        slopes: what a token of context adds to some of them.
        many: see above; 1 = requests cost nothing beside their rows.
        padded: see `StepTimes`.
    """
    few = {rows: min(n for size, n in times if size == rows) for rows, _ in times}
    few = {rows: n for rows, n in few.items() if rows == 1 or n < rows or many == 1}
    if len(few) < 2:
        return StepTimes()
    each, each_slope = _each(times, few, many), _each(slopes, few, many)
    pure = {rows: max(times[rows, n] - each * (n - 1), 0.1 * times[rows, n]) for rows, n in few.items()}
    known = {rows: max(0.0, slopes[rows, n] - each_slope * (n - 1)) for rows, n in few.items() if (rows, n) in slopes}
    line = StepTimes(undisturbed(known)) if len(known) > 1 else None
    found = StepTimes(
        undisturbed(pure),
        each=each,
        padded=padded,
        slopes=[] if line is None else [line.at(rows) for rows in sorted(pure)],
        each_slope=each_slope,
    )
    found.correct({} if many == 1 else times)
    return found


def _each(times: Times, few: Mapping[int, int], many: int) -> float:
    """Returns what a further request adds, from the two steps of `many` rows."""
    if many not in few or (many, few[many]) not in times or (many, many) not in times or few[many] == many:
        return 0.0
    return max(0.0, (times[many, many] - times[many, few[many]]) / (many - few[many]))


def undisturbed(times: Mapping[int, float]) -> dict[int, float]:
    """Returns times that never fall as rows are added: none is above that of more rows.

    What disturbs a step makes it longer, so of two times that contradict each other the longer one is wrong.
    """
    rows = sorted(times)
    least = itertools.accumulate((times[size] for size in reversed(rows)), min)
    return dict(zip(rows, [*least][::-1], strict=True))


def _run(engine: Measured, step: _Step, pages: set[int]) -> list[float]:
    """Runs a few cycles of the requests of a step, and adds the pages that they took.

    Returns:
        Seconds of a step in each cycle; empty if the requests do not fit.
    """
    each, more = divmod(step.rows, step.num_requests)
    widths = [each + (number < more) for number in range(step.num_requests)]
    room = engine.allocator.num_pages // step.num_requests * PAGE_SIZE - step.context - 1 - 2 * widths[0]
    longest = engine.runner.model.config.max_position_embeddings - step.context - 1
    length = min((_CYCLES + 1) * widths[0], room, longest)
    if length < 2 * widths[0]:
        return []
    vocab = engine.runner.model.config.vocab_size
    prompts = [[number % vocab, *[0] * step.context] for number in range(step.num_requests)]
    requests: list[Request] = []
    try:
        for prompt, width in zip(prompts, widths, strict=True):
            pages.update(_pretend(engine.allocator, prompt))
            requests.append(engine.add("measured", prompt, _params(length, width)))
        return _cycles(engine, requests, pages)
    except GenerationError:  # the model's context is shorter than a block
        return []
    finally:
        for request in requests:
            engine.cancel(request)
        while engine.busy:
            engine.step()
        engine.allocator.withdraw(sorted(pages))


def _pretend(allocator: PageAllocator, prompt: list[int]) -> list[int]:
    """Offers pages as if they held the KV of the prompt's beginning. Returns them; none if there are too few."""
    pages = allocator.allocate((len(prompt) - 1) // PAGE_SIZE) or []
    allocator.share(pages, prompt[: len(pages) * PAGE_SIZE])
    allocator.release(pages)
    return pages


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
        if cycles > forwards[0] and now > began:  # a coarse clock may stand still
            seconds.append((now - began) / (steps - forwards[1]))
            began, forwards = now, (cycles, steps)
    return seconds


def _forwards(state: DecodeState) -> tuple[int, int]:
    """Returns the number of finished cycles and of forwards in them, if a cycle has just ended."""
    cycles = state.forwards["decode"] + state.forwards["verify"]
    return cycles, cycles + state.forwards["draft"]


def _params(length: int, width: int) -> DecodeParams:
    if width == 1:
        return DecodeParams(mode="ar", max_new_tokens=length, block_length=1, threshold=None, ignore_eos=True)
    return DecodeParams(mode="linear_spec", max_new_tokens=length, block_length=width, threshold=0.0, ignore_eos=True)
