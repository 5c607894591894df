"""Section: the bundled demo model in all modes: the CPU's tokens in float32, and how far bfloat16 agrees with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

import torch
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.records import Condition, Record
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import Generation, WorkerSettings
from trimode.workers.runtime import Runtime

MODEL = PROJECT_DIR / "assets" / "demo_model"
PROMPTS = PROJECT_DIR / "assets" / "benchmarks" / "demo-math" / "test.jsonl"
MODES: Mapping[str, Mapping[str, object]] = {
    "ar": {"mode": "ar"},
    "dlm": {"mode": "dlm", "block_length": 32, "threshold": 0.9},
    "dlm by quota": {"mode": "dlm", "block_length": 8, "threshold": None},
    "linear_spec": {"mode": "linear_spec"},
    "linear_spec + LoRA": {"mode": "linear_spec", "lora": True},
    "auto": {"mode": "auto"},
}
"""Name -> fields of a request. The NFE of auto depends on the times of steps, its tokens do not."""


def run(bench: Bench) -> None:
    """Answers the same prompts on the CPU and on the device."""
    bench.guarded("demo model", functools.partial(compare, bench))


def compare(bench: Bench) -> None:
    """Records per mode how many answers are the same, and how many of their first tokens."""
    expected = answers(bench, torch.device("cpu"), "float32")
    for dtype in ("float32", "bfloat16"):
        if bench.is_out_of_time(f"demo model in {dtype}"):
            return
        found = answers(bench, bench.device, dtype)
        for mode in MODES:
            _record(bench, found[mode], expected[mode], {"mode": mode, "dtype": dtype})


def answers(bench: Bench, device: torch.device, dtype: str) -> dict[str, list[Generation]]:
    """Returns the answers of all modes, every mode with all its requests at once."""
    plan = bench.plan
    rows = PROMPTS.read_text(encoding="utf-8").splitlines()[: plan.demo_requests]
    prompts = [json.loads(row)["problem"] for row in rows]
    settings = WorkerSettings(
        model=str(MODEL), lora=str(MODEL / "linear_spec_lora"), device=str(device), dtype=dtype,
        max_num_seqs=len(prompts), kv_cache_gb=0.2,
    )  # fmt: skip
    runtime = Runtime(settings)
    for name, how in runtime.describe_kernels().items():
        if name == "graphs":
            bench.note("fact", f"demo model in {dtype}: {how}")
    found = {}
    for mode, fields in MODES.items():
        sequences = []
        for number, prompt in enumerate(prompts):
            message = {"role": "user", "content": prompt}
            asked = {"messages": [message], "max_new_tokens": plan.demo_tokens} | dict(fields)
            sequences.append(runtime.submit(str(number), asked))
        while runtime.engine.busy:
            runtime.engine.step()
        found[mode] = [runtime.generation(sequence) for sequence in sequences]
    return found


def _record(
    bench: Bench, found: Sequence[Generation], expected: Sequence[Generation], where: dict[str, Condition]
) -> None:
    pairs = list(zip(found, expected, strict=True))
    same = sum(a.token_ids == b.token_ids for a, b in pairs)
    agreed = sum(common_prefix(a.token_ids, b.token_ids) for a, b in pairs)
    total = sum(len(b.token_ids) for _, b in pairs)
    nfe = sum(a.cost.nfe or 0 for a, _ in pairs), sum(b.cost.nfe or 0 for _, b in pairs)
    counts: dict[str, Condition] = {"answers": len(pairs), "NFE": nfe[0], "NFE on the CPU": nfe[1]}
    bench.record(Record(name="same answers", value=same / len(pairs), unit="of all", conditions=where | counts))
    bench.record(Record(name="same first tokens", value=agreed / max(1, total), unit="of all", conditions=where))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Returns how many tokens from the start are the same."""
    for index, (mine, other) in enumerate(zip(a, b, strict=False)):
        if mine != other:
            return index
    return min(len(a), len(b))
