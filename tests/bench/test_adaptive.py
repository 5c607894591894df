"""The benchmark of the mode auto runs from end to end on a tiny model; its numbers mean nothing there."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from trimode.bench import adaptive, closed_loop
from trimode.bench.random_checkpoint import TINY_SHAPE, write_checkpoint
from trimode.core.protocol import WorkerSettings
from trimode.workers.decode.chunk import Chunk, Sampled, Verify
from trimode.workers.runtime import Runtime


@pytest.mark.parametrize("mean", [1.0, 4.5, 8.9])
def test_a_chance_gives_its_mean(mean: float) -> None:
    chance = closed_loop.chance_of(mean)
    assert sum(chance**place for place in range(32)) == pytest.approx(mean)


def test_a_narrower_block_meets_the_same_text() -> None:
    fates = closed_loop.Fates([8.9])
    for position in range(0, 200, 7):
        accepted = []
        for width in (32, 4):
            chunk = Chunk(
                "verify", [1] * width, position, causal=True, keep_kv=True, rows=range(width), purpose="verify",
                selection=Verify(),
            )  # fmt: skip
            sampled = Sampled([1] * width, [], [])
            fates.rewrite("3", chunk, sampled)
            accepted.append(sampled.accepted)
        assert accepted[1] == min(4, accepted[0])


def test_a_table_has_a_line_per_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, TINY_SHAPE)
    engine = Runtime(WorkerSettings(model=str(tmp_path), device="cpu", max_num_seqs=4, kv_cache_gb=0.05)).engine
    adaptive.compare(engine, "tiny", [1, 3], lambda: itertools.cycle([[5, 6, 7]]), 40, [8.9, 1.0])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "3"]
    assert {line.count("|") for line in lines} == {len(closed_loop.SETTINGS) + 5}
    assert not engine.busy


def test_the_cost_of_a_decision_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    adaptive.cost(4, 20)
    assert "of processor time per step of 4 requests" in capsys.readouterr().out
