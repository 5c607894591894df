"""The runner on the micro model: what it returns in which order, what it times, and a clean cache after the warm-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trimode.core.protocol import DecodeParams
from trimode.tests.fakes.forward import new_state
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine import runner
from trimode.workers.engine.runner import Runner
from trimode.workers.engine.scheduler import ScheduledChunk, Sequence
from trimode.workers.runtime import Runtime


@pytest.fixture
def own(micro: Runtime) -> Runner:
    """The micro model with a cache of its own."""
    return Runner(micro.engine.model, 16)


def prefill(prompt: list[int], pages: list[int]) -> ScheduledChunk:
    """The whole prompt of an ar request as one chunk."""
    state = new_state("ar", prompt)
    return ScheduledChunk(Sequence(str(prompt), state, pages=pages), state.next_chunk())


def test_each_chunk_comes_back_with_its_own_samples(own: Runner) -> None:
    items = [prefill([5, 6, 7, 8], [0]), prefill([9], [1]), prefill([22, 18, 35], [2])]
    alone = {id(item): own.run([item]).samples[0][1].tokens for item in items}
    together = own.run(items)
    assert len(together.samples) == 3
    assert {id(item): sampled.tokens for item, sampled in together.samples} == alone
    assert {len(tokens) for tokens in alone.values()} == {1}


def test_nothing_scheduled_runs_no_forward(own: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(own.model), "forward")
    assert (own.run([]).samples, own.run([]).model_s) == ((), 0.0)


def test_the_sampler_gets_the_parameters_of_each_request(own: Runner) -> None:
    seen: list[tuple[Chunk, DecodeParams]] = []
    launch = own.sampler.launch

    def noted(hidden: Any, plan: Any, *rest: Any) -> Any:
        seen.extend((request.chunk, request.params) for request in plan.requests)
        return launch(hidden, plan, *rest)

    own.sampler.launch = noted  # type: ignore[method-assign]
    items = [prefill([5, 6, 7, 8], [0]), prefill([9], [1])]
    own.run(items)
    assert {id(chunk): id(params) for chunk, params in seen} == {
        id(item.chunk): id(item.sequence.state.params) for item in items
    }


class Clock:
    """Stands for the module `time`: only the wrapped parts of a step take time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, original: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.now += seconds
            return original(*arguments, **named)

        return wrapped


def test_model_seconds_are_forward_and_sampling_without_packing(own: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(runner, "time", clock)
    monkeypatch.setattr(runner, "pack", clock.slow(runner.pack, 100.0))
    monkeypatch.setattr(own.model, "forward", clock.slow(own.model.forward, 3.0))
    own.sampler.head = clock.slow(own.model.head, 0.5)
    assert own.run([prefill([9], [1])]).model_s == 3.5


def test_a_warm_up_leaves_the_cache_empty(own: Runner) -> None:
    own.run([prefill([9], [1])])
    assert own.cache.layer(0)[1].any()
    own.cache.clear([1])
    own.warm_up()
    assert not any(own.cache.layer(number).any() for number in range(own.model.config.num_layers))
