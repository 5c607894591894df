"""The engine's counters: one step, one request that ended, one that failed."""

from __future__ import annotations

import pytest
from trimode.tests.fakes.forward import begun, step
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine.counters import EngineCounters


def chunk(kind: str, count: int, position: int) -> Chunk:
    return Chunk(kind, [0] * count, position, True, True, (), "decode")


def test_a_step_counts_its_chunks_tokens_and_seconds() -> None:
    counters = EngineCounters()
    counters.record([chunk("prefill", 7, 0), chunk("verify", 4, 20)], step_s=3.0, model_s=2.5)
    assert (counters.steps, counters.rows["prefill"], counters.rows["verify"]) == (1, 1, 1)
    assert (counters.step_tokens, counters.kv_tokens) == (11, 7 + 24)
    assert (counters.model_s, counters.host_s) == (2.5, 0.5)


def test_a_step_without_chunks_is_not_counted() -> None:
    counters = EngineCounters()
    counters.record([], step_s=3.0, model_s=0.0)
    assert counters == EngineCounters()


def test_a_finished_request_counts_its_tokens_and_evaluations() -> None:
    counters, state = EngineCounters(), begun("ar", 5)
    step(state, 6)
    counters.finish(state, failed=False)
    assert (counters.requests_finished, counters.requests_failed) == (1, 0)
    assert (counters.tokens_generated, counters.nfe) == (2, state.nfe(state.forwards))


def test_a_failed_request_counts_as_failed_only() -> None:
    counters = EngineCounters()
    counters.finish(begun("ar", 5), failed=True)
    assert counters == EngineCounters(requests_failed=1)


@pytest.mark.parametrize("name", ["acceptance_lengths", "widths", "fixed_tokens"])
def test_a_request_whose_record_is_broken_is_counted_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counters, state = EngineCounters(), begun("ar", 5)

    def broken(_: object) -> object:
        raise TypeError(name)

    monkeypatch.setattr(type(state), name, property(broken))
    with pytest.raises(TypeError, match=name):
        counters.finish(state, failed=False)
    assert counters == EngineCounters()


def test_in_hindsight_a_request_runs_its_widest_where_others_are_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else requests with a small block_length would make wide cycles look bad for all."""
    counters = EngineCounters()
    given = [{1: 10.0, 4: 20.0}, {1: 10.0, 4: 30.0, 8: 40.0, 16: 50.0}, {1: 10.0}, {1: 1.0, 4: 2.0, 8: 3.0}]
    left = iter(given)
    monkeypatch.setattr(ArState, "fixed_tokens", property(lambda _: next(left)))
    for _ in given:
        state = begun("ar", 5)
        step(state, 6)
        counters.finish(state, failed=False)
    assert counters.fixed_tokens == {"1": 31.0, "4": 62.0, "8": 73.0, "16": 83.0}
    assert [*counters.fixed_tokens] == ["1", "4", "8", "16"]
    assert counters.chosen_tokens == 4
