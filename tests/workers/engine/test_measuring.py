"""Measuring what steps cost leaves the engine as it was."""

from __future__ import annotations

from trimode.tests.workers.micro import load_cases
from trimode.workers.engine.engine import Engine
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
