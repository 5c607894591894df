"""The engine benchmark runs from end to end on a tiny model; its numbers mean nothing there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trimode.bench import engine, loads
from trimode.bench.machine import Machine
from trimode.bench.random_checkpoint import TINY_SHAPE, write_checkpoint
from trimode.bench.rivals import time_steps, transformers_step
from trimode.core.protocol import WorkerSettings
from trimode.workers.runtime import Runtime


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder, TINY_SHAPE)
    return Runtime(WorkerSettings(model=str(folder), device="cpu", max_num_seqs=8, kv_cache_gb=0.05))


@pytest.mark.parametrize("load", loads.LOADS, ids=lambda load: f"{load.mode}-{load.block_length}")
def test_tokens_a_forward_are_fixed_by_the_load(tiny: Runtime, load: loads.Load) -> None:
    got = loads.measure_load(tiny, load, 2, 1)
    tokens_a_forward = got.tokens_per_s / got.forwards_per_s
    assert tokens_a_forward == pytest.approx(1.0) or (load.mode == "linear_spec" and tokens_a_forward >= 0.5)
    assert got.flop_per_s > 0
    assert 0 <= got.host_gap < 1
    assert not tiny.engine.busy


def test_requests_are_replaced_before_one_ends(tiny: Runtime) -> None:
    load = loads.Load("linear_spec", 32, 0.0, 6)
    got = loads.measure_load(tiny, load, 8, 4)  # up to 768 tokens a request, more than one has
    assert got.tokens_per_s > 0
    assert not tiny.engine.busy


def test_step_lines_compare_with_the_rivals(tiny: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow:
        def seconds(self, tokens: int, repeats: int) -> list[float]:
            return [float(tokens)] * repeats

    machine = Machine(data=torch.ones(4096), flop_per_s=1e9, own_flop_per_s=1e9)
    reference = engine.compare_steps(tiny, {"transformers": Slow()}, machine, 1)  # type: ignore[dict-item]
    assert reference == {tokens: float(tokens) for tokens in engine.STEP_TOKENS}
    printed = capsys.readouterr().out
    assert printed.count("\n|") >= 2 + len(engine.STEP_TOKENS)
    assert "read roof: " in printed


def test_the_transformers_rival_keeps_its_context(tmp_path: Path) -> None:
    default = torch.get_default_dtype()
    try:
        step = transformers_step(TINY_SHAPE, 16, tmp_path)
    finally:
        torch.set_default_dtype(default)
    assert len(time_steps(lambda: step(4), 2)) == 2
