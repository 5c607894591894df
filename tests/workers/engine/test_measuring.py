"""Measuring what steps cost leaves the engine as it was."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from trimode.tests.fakes.capture import CheckedCapture
from trimode.tests.workers.micro import load_cases
from trimode.workers.engine import measuring
from trimode.workers.engine.buckets import Buckets
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.measuring import step_times, undisturbed
from trimode.workers.engine.runner import StepResult
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.params import parse_params
from trimode.workers.runtime import Runtime

CASE = next(case for case in load_cases() if case.fields["mode"] == "linear_spec")


def answer(engine: Engine) -> list[int]:
    fields = dict(CASE.fields)
    prompt = fields.pop("prompt_ids")
    assert isinstance(prompt, list)
    sequence = engine.add("0", prompt, parse_params(fields))
    while engine.busy:
        engine.step()
    return sequence.state.tokens()


def test_times_of_several_sizes_are_known_and_the_cache_is_clean(micro: Runtime) -> None:
    engine = Engine(micro.engine.model, 100, 4)
    engine.measure()
    times = engine.planner.widths.times
    assert 0 < times.at(1) <= times.at(32) <= times.at(128)
    assert (engine.counters.steps, engine.allocator.num_free) == (0, 100)
    assert all(not engine.runner.cache.layer(number).any() for number in range(engine.model.config.num_layers))
    assert answer(engine) == CASE.tokens


def test_an_engine_that_has_not_measured_has_times_too() -> None:
    assert StepTimes().at(1) < StepTimes().at(2048)


def test_a_tiny_cache_is_enough(micro: Runtime) -> None:
    engine = Engine(micro.engine.model, 4, 1)
    engine.measure()
    assert engine.planner.widths.times.at(1) > 0


def test_the_cost_of_a_request_is_what_many_take_longer_for_the_same_rows() -> None:
    times = step_times({(1, 1): 1.0, (64, 2): 2.4, (128, 4): 4.0, (64, 64): 4.26}, {}, 64)
    assert times.at(64, 64) == pytest.approx(4.26)
    assert times.at(64, 2) == pytest.approx(2.4)
    assert times.at(128, 4) == pytest.approx(4.0)


def test_without_the_step_of_many_requests_they_cost_nothing() -> None:
    times = step_times({(1, 1): 1.0, (8, 1): 1.5}, {}, 64)
    assert times.at(8, 8) == times.at(8) == 1.5


def test_a_disturbed_time_is_no_longer_than_that_of_more_rows() -> None:
    assert undisturbed({1: 1.6, 4: 1.4, 8: 5.5, 64: 59.0, 128: 4.5}) == {1: 1.4, 4: 1.4, 8: 4.5, 64: 4.5, 128: 4.5}


def test_contexts_cost_by_rows_and_by_request() -> None:
    times = step_times(
        {(1, 1): 1.0, (32, 1): 2.0, (64, 2): 2.4, (128, 4): 4.0, (64, 64): 2.4},
        {(1, 1): 0.001, (32, 1): 0.002, (64, 2): 0.004, (64, 64): 0.128},
        64,
    )
    without = {rows: times.at(rows, rows) for rows in (1, 32, 64)}
    times.have_context(1000)
    assert times.at(1) == pytest.approx(1.0 + 1.0)
    assert times.at(32) == pytest.approx(2.0 + 2.0)
    assert times.at(64, 2) == pytest.approx(2.4 + 4.0)
    assert times.at(64, 64) == pytest.approx(without[64] + 128.0)
    assert times.at(128, 4) == pytest.approx(4.0 + 2.0 + 3 * 2.0)


def test_what_a_context_costs_is_measured(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(micro.engine.model, 400, 4)
    run = engine.runner.run

    def attending(scheduled: Sequence[ScheduledChunk]) -> StepResult:
        time.sleep(0.05 * (scheduled[0].chunk.position > 200))
        return run(scheduled)

    monkeypatch.setattr(engine.runner, "run", attending)
    engine.measure()
    assert engine.allocator.num_shared == 0
    times = engine.planner.widths.times
    before = times.at(1)
    times.have_context(512)
    assert times.at(1) > before + 20


def test_a_model_that_gives_no_numbers_starts_and_fails_its_requests_later(micro: Runtime) -> None:
    engine = Engine(micro.engine.model, 100, 4)
    embedding = engine.model.embedding.clone()
    try:
        engine.model.embedding.fill_(math.nan)
        engine.measure()
    finally:
        engine.model.embedding.copy_(embedding)
    assert (engine.busy, engine.counters.requests_failed, engine.allocator.num_free) == (False, 0, 100)
    assert answer(engine) == CASE.tokens


def test_a_step_that_compiles_for_long_is_measured_again(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(micro.engine.model, 400, 4)
    run, slept = engine.runner.run, list[int]()

    def compiling(scheduled: Sequence[ScheduledChunk]) -> StepResult:
        if len(scheduled) == 1 and len(scheduled[0].chunk.token_ids) == 32 and len(slept) < 2:
            slept.append(1)
            time.sleep(0.5)
        return run(scheduled)

    monkeypatch.setattr(engine.runner, "run", compiling)
    engine.measure()
    assert engine.planner.widths.times.at(32) < 250


def test_with_graphs_a_size_between_two_costs_what_the_larger_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = SimpleNamespace(buckets=Buckets(4, lora=False).all)
    engine: Any = SimpleNamespace(
        runner=SimpleNamespace(graphs=graphs), allocator=SimpleNamespace(num_pages=4000), max_num_seqs=4
    )

    def run_all(_engine: object, steps: list[Any], _budget: float) -> dict[Any, list[float]]:
        return {step: [0.001 * step.rows] for step in steps}

    monkeypatch.setattr(measuring, "_run_all", run_all)
    sizes = sorted({bucket.tokens for bucket in graphs.buckets})
    low, high = next((low, high) for low, high in itertools.pairwise(sizes) if high > low + 1)
    times = measuring.measure(engine)
    assert times.at(low + 1) == pytest.approx(high)
    assert times.at(high, 4) == pytest.approx(high)  # graphs run as many requests as there can be


class CoarseClock:
    """A clock that moves with every third look at it only."""

    def __init__(self) -> None:
        self._looks = itertools.count()

    def perf_counter(self) -> float:
        return 0.003 * (next(self._looks) // 3)


def test_a_clock_that_stands_still_during_a_step_gives_times_too(
    micro: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "time", CoarseClock())
    engine = Engine(micro.engine.model, 400, 4)
    engine.measure()
    times = engine.planner.widths.times
    assert all(0 < times.at(rows, requests) < math.inf for rows, requests in ((1, 1), (4, 4), (32, 1), (128, 4)))


class StepClock:
    """A clock that only steps move: `cost` says by how many seconds, from the rows of a step."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], float]) -> None:
        self.now = 0.0
        run = engine.runner.run

        def taking_time(scheduled: Sequence[ScheduledChunk]) -> StepResult:
            self.now += cost(sum(len(item.chunk.token_ids) for item in scheduled))
            return run(scheduled)

        monkeypatch.setattr(engine.runner, "run", taking_time)
        monkeypatch.setattr(measuring, "time", self)

    def perf_counter(self) -> float:
        return self.now


def test_a_cycle_is_two_forwards_and_a_step_of_ar_is_one(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(micro.engine.model, 400, 4)
    StepClock(engine, monkeypatch, lambda rows: 0.002 + 0.001 * rows)
    engine.measure()
    times = engine.planner.widths.times
    for rows, requests in ((1, 1), (8, 1), (32, 1), (4, 4), (32, 4)):
        assert times.at(rows, requests) == pytest.approx(2 + rows), (rows, requests)


def test_no_step_has_more_requests_than_the_engine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    def run_all(_engine: object, steps: list[Any], _budget: float) -> dict[Any, list[float]]:
        ran.extend(steps)
        return {step: [0.001 * step.rows] for step in steps}

    monkeypatch.setattr(measuring, "_run_all", run_all)
    for most in (1, 3, 20):
        engine: Any = SimpleNamespace(
            runner=SimpleNamespace(graphs=None), allocator=SimpleNamespace(num_pages=4000), max_num_seqs=most
        )
        measuring.measure(engine)
        assert max(step.num_requests for step in ran) <= most
        assert all(step.num_requests <= step.rows for step in ran)
        ran.clear()


def test_a_context_that_seemed_to_save_time_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(_engine: object, steps: list[Any], _budget: float) -> dict[Any, list[float]]:
        return {step: [0.001 * step.rows * (0.5 if step.context else 1.0)] for step in steps}

    monkeypatch.setattr(measuring, "_run_all", run_all)
    engine: Any = SimpleNamespace(
        runner=SimpleNamespace(graphs=None), allocator=SimpleNamespace(num_pages=4000), max_num_seqs=1
    )
    times = measuring.measure(engine)
    without = times.at(8)
    times.have_context(10_000)
    assert times.at(8) == without > 0


def test_what_requests_cost_is_taken_off_the_times_of_rows() -> None:
    times = step_times({(1, 1): 1.0, (64, 2): 3.0, (128, 4): 8.0, (64, 64): 65.0}, {}, 64)
    assert times.at(64, 1) == pytest.approx(2.0)
    assert times.at(128, 1) == pytest.approx(5.0)
    assert times.at(64, 64) == pytest.approx(65.0)


def test_requests_that_seem_to_cost_more_than_the_whole_step_leave_a_part_of_it() -> None:
    times = step_times({(1, 1): 0.1, (64, 2): 3.0, (128, 4): 8.0, (64, 64): 500.0}, {}, 64)
    assert times.at(128, 1) == pytest.approx(0.8)


def test_requests_that_seem_to_save_time_cost_nothing() -> None:
    times = step_times({(1, 1): 1.0, (64, 2): 3.0, (128, 4): 8.0, (64, 64): 0.5}, {}, 64)
    assert times.at(64, 1) == pytest.approx(3.0)
    assert times.at(512, 512) > 0


def test_steps_beside_the_two_sums_correct_them() -> None:
    times = step_times({(1, 1): 1.0, (64, 2): 2.4, (128, 4): 4.0, (64, 64): 4.26, (32, 32): 5.0, (32, 8): 7.0}, {}, 64)
    assert (times.at(32, 32), times.at(32, 8)) == pytest.approx((5.0, 7.0))


def test_a_disturbed_step_makes_no_wider_one_longer() -> None:
    times = step_times({(1, 1): 2.0, (4, 1): 1.0, (8, 1): 3.0}, {(1, 1): 0.02, (4, 1): 0.01, (8, 1): 0.03}, 1)
    assert (times.at(1), times.at(4), times.at(8)) == (1.0, 1.0, 3.0)
    times.have_context(100)
    assert (times.at(1), times.at(4), times.at(8)) == pytest.approx((2.0, 2.0, 6.0))


def test_of_several_cycles_a_quick_one_counts_and_not_the_quickest(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(_engine: object, steps: list[Any], _budget: float) -> dict[Any, list[float]]:
        return {step: [0.003, 0.001, 0.9, 0.002] for step in steps}

    monkeypatch.setattr(measuring, "_run_all", run_all)
    engine: Any = SimpleNamespace(
        runner=SimpleNamespace(graphs=None), allocator=SimpleNamespace(num_pages=4000), max_num_seqs=1
    )
    assert measuring.measure(engine).at(8) == pytest.approx(2.0)


def test_a_step_that_compiles_for_less_than_its_rows_take_is_measured_again(
    micro: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a larger model, whose first step of 32 rows takes three times as long as the next one."""
    engine = Engine(micro.engine.model, 400, 4)
    run, compiled = engine.runner.run, list[int]()

    def slow(scheduled: Sequence[ScheduledChunk]) -> StepResult:
        first = len(scheduled) == 1 and len(scheduled[0].chunk.token_ids) == 32 and not compiled
        if first:
            compiled.append(1)
        time.sleep(0.8 if first else 0.02)
        return run(scheduled)

    monkeypatch.setattr(engine.runner, "run", slow)
    engine.measure()
    assert engine.planner.widths.times.at(32) < 300


def test_with_graphs_the_steps_that_are_measured_are_not_mixed(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(micro.engine.model, 400, 4, capture=CheckedCapture(lazy=True))
    engine.warm_up()
    ran: list[tuple[int, int]] = []

    def run_all(_engine: object, steps: list[measuring._Step], _budget: float) -> dict[measuring._Step, list[float]]:
        ran.extend((step.rows, step.num_requests) for step in steps if not step.context)
        return {step: [0.001 * (step.rows + step.context)] for step in steps}

    monkeypatch.setattr(measuring, "_run_all", run_all)
    engine.measure()
    assert max(rows for rows, _ in ran) == 128
    assert {(rows, requests) for rows, requests in ran if rows <= 4} == {(1, 1), (2, 2), (3, 3), (4, 4)}
    assert all(rows / requests >= 8 for rows, requests in ran if rows >= 8)
    times = engine.planner.widths.times
    assert times.at(8) < times.at(9) == times.at(10)  # there is no graph for 9
    assert engine.planner.widths.kinds.whole_from == 8
    assert Engine(micro.engine.model, 400, 4).planner.widths.kinds.whole_from is None
