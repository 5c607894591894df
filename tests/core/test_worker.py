"""A worker's info and stats as JSON."""

from __future__ import annotations

import json

import pytest
from trimode.core.worker import WorkerInfo, WorkerStats
from trimode.tests.fakes.worker import worker_info


def test_a_workers_info_survives_json() -> None:
    info = worker_info(
        kernels={"rope": "cpu", "argmax": "reference: no AVX"},
        lora_sha256="l0",
        quantization="fp8",
        quantized=["diffusion_head"],
    )
    assert WorkerInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_a_workers_stats_survive_json_and_carry_their_ratios() -> None:
    stats = WorkerStats(tokens_generated=60, nfe=20, accepted=9, cycles=3, steps=5, model_s=6.0, host_s=2.0)
    raw = json.loads(json.dumps(stats.to_json()))
    assert (raw["tpf"], raw["acceptance_length"]) == (3.0, 3.0)
    assert (raw["tokens_per_second"], raw["forwards_per_second"], raw["host_gap"]) == (7.5, 0.625, 0.25)
    assert WorkerStats.from_json(raw) == stats


def test_the_regret_is_what_the_best_fixed_width_would_have_given_more() -> None:
    stats = WorkerStats(widths={"1": 30, "8": 5}, chosen_tokens=50, fixed_tokens={"1": 40.0, "8": 60.0})
    raw = json.loads(json.dumps(stats.to_json()))
    assert raw["regret"] == pytest.approx(0.2)
    assert WorkerStats.from_json(raw) == stats


def test_ratios_of_an_idle_worker_are_undefined() -> None:
    raw = WorkerStats().to_json()
    ratios = ("tpf", "acceptance_length", "tokens_per_second", "forwards_per_second", "host_gap", "regret")
    assert [raw[name] for name in ratios] == [None] * 6
