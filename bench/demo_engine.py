"""The bundled demo model, small and bound by the host: 16 requests at once against one at a time on the same engine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from trimode.core.protocol import Mode, Row, WorkerSettings
from trimode.workers.runtime import Runtime

ASSETS = Path(__file__).parents[1] / "assets"
CONCURRENT = 16
MAX_NEW_TOKENS = 128


def answer_all(runtime: Runtime, fields: Row, prompts: Sequence[Row], together: int) -> float:
    """Answers all prompts with at most `together` running. Returns the seconds that it took.

    Prompts of earlier runs are in the prefix cache. `fields` and each prompt are fields of a request.
    """
    runtime.engine.scheduler.max_num_seqs = together
    began = time.perf_counter()
    for number, prompt in enumerate(prompts):
        runtime.submit(str(number), {**fields, **prompt, "max_new_tokens": MAX_NEW_TOKENS})
    while runtime.engine.busy:
        runtime.engine.step()
    return time.perf_counter() - began


def compare_demo(requests: int) -> None:
    """Prints requests per second of the demo model in each mode, one at a time and 16 at once."""
    rows = (ASSETS / "benchmarks" / "demo-math" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:requests]
    prompts: list[Row] = [{"messages": [{"role": "user", "content": json.loads(row)["problem"]}]} for row in rows]
    settings = WorkerSettings(
        model=str(ASSETS / "demo_model"), device="cpu", dtype="float32", max_num_seqs=CONCURRENT, kv_cache_gb=0.2
    )
    runtime = Runtime(settings)
    print(f"\n| demo model, float32 | requests/s one at a time | requests/s {CONCURRENT} at once | ratio | host gap |")
    print("|---|---|---|---|---|")
    for mode in Mode:
        answer_all(runtime, {"mode": mode}, prompts, CONCURRENT)
        alone = answer_all(runtime, {"mode": mode}, prompts, 1)
        counters = runtime.engine.counters
        model_s = counters.model_s
        together = answer_all(runtime, {"mode": mode}, prompts, CONCURRENT)
        gap = 1 - (counters.model_s - model_s) / together
        print(
            f"| {mode} | {requests / alone:.1f} | {requests / together:.1f} | {alone / together:.2f}x | {gap:.0%} |",
            flush=True,
        )
