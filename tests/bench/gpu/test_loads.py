"""Requests of the GPU measurement: fixed steps, and decisions from a script."""

from __future__ import annotations

import pytest
from trimode.bench.gpu import loads
from trimode.bench.gpu.scripted import Script, dlm_passes, evenly, scripted
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.engine.engine import Engine
from trimode.workers.runtime import Runtime


@pytest.fixture
def engine() -> Engine:
    return Runtime(micro_settings()).engine


def test_evenly_keeps_the_mean() -> None:
    numbers = [evenly(6.82, index) for index in range(100)]
    assert set(numbers) == {6, 7}
    assert sum(numbers) == 682


@pytest.mark.parametrize("tokens", [2, 8])
def test_a_fixed_step_runs_the_same_tokens_again(engine: Engine, tokens: int) -> None:
    sequences = loads.start(engine, loads.params_for("ar", tokens, None, 64), 20, 3)
    before = engine.counters.step_tokens
    engine.step()
    engine.step()
    assert engine.counters.step_tokens - before == 2 * 3 * tokens
    assert [sequence.state.cached for sequence in sequences] == [20] * 3
    loads.stop(engine, sequences)
    assert not engine.busy


def test_a_request_that_ends_while_it_is_measured_is_an_error(engine: Engine) -> None:
    sequences = loads.start(engine, loads.params_for("ar", 1, None, 2), 20, 2)
    engine.step()
    engine.step()
    with pytest.raises(RuntimeError, match="2 of 2 requests ended"):
        loads.stop(engine, sequences)


def test_linear_spec_accepts_by_the_script(engine: Engine) -> None:
    with scripted(engine, Script(6.82, 2.0)):
        sequences = loads.start(engine, loads.params_for("linear_spec", 32, 0.0, 400), 20, 2)
        before = [len(sequence.state.output) for sequence in sequences]
        forwards = [sum(sequence.state.forwards.values()) for sequence in sequences]
        for _ in range(100):
            engine.step()
        for sequence, tokens, ran in zip(sequences, before, forwards, strict=True):
            assert (sum(sequence.state.forwards.values()) - ran) == 100
            assert len(sequence.state.output) - tokens == pytest.approx(50 * 6.82, abs=1)
        loads.stop(engine, sequences)


def test_dlm_commits_by_the_script(engine: Engine) -> None:
    with scripted(engine, Script(1.0, dlm_passes(8, 2.57))):
        (sequence,) = loads.start(engine, loads.params_for("dlm", 8, 0.9, 1000), 20, 1)
        before = sum(sequence.state.forwards.values())
        while len(sequence.state.output) < 800:
            engine.step()
        forwards = sum(sequence.state.forwards.values()) - before
        assert len(sequence.state.output) / forwards == pytest.approx(2.57, rel=0.01)
        loads.stop(engine, [sequence])
