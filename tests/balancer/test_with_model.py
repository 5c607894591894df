"""The balancer in front of real workers and the demo checkpoint: every forward told to a client was made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trimode.tests.balancer.balancer_process import ROOT, start_balancer
from trimode.workers.protocol import Mode

MODEL = ROOT / "assets" / "demo_model"


def test_replies_of_three_modes_at_once_add_up_to_the_engines_counters(tmp_path: Path) -> None:
    flags = ("--model", str(MODEL), "--lora", str(MODEL / "linear_spec_lora"), "--dtype", "float32")
    balancer = start_balancer(tmp_path, *flags, "--worker-class", "trimode.workers.worker:Worker")

    def ask(mode: Mode) -> dict[str, Any]:
        lora = mode is Mode.LINEAR_SPEC
        reply = balancer.ask("What is 2 + 3?", model=None, mode=mode.value, max_tokens=12, lora=lora, block_length=4)
        assert reply.status_code == 200, reply.text
        usage: dict[str, Any] = reply.json()["usage"]
        return usage

    try:
        with ThreadPoolExecutor(6) as threads:
            usages = list(threads.map(ask, [Mode.AR, Mode.DLM, Mode.LINEAR_SPEC] * 2))
        stats = balancer.stats()
        engines = [worker["engine"] for worker in stats["workers"]]
        refused = balancer.ask("hello", model=None, top_p=7)
    finally:
        balancer.terminate()
    assert stats["told"]["nfe"] == sum(usage["nfe"] for usage in usages) == sum(engine["nfe"] for engine in engines)
    for kind, count in stats["told"]["forwards"].items():
        assert count == sum(engine["rows"][kind] for engine in engines)
    assert stats["told"]["completion_tokens"] == sum(engine["tokens_generated"] for engine in engines)
    assert [engine["requests_finished"] for engine in engines] == [3, 3]
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_p"
