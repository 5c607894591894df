"""/metrics: what Prometheus reads of the replies, the balancer and the workers."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from trimode.balancer.api.metrics import Metrics
from trimode.balancer.work import Reply
from trimode.core.worker import WorkerStats
from trimode.tests.fakes.app import CHAT, HELLO, AppBench, StrictWorker, post
from trimode.tests.fakes.worker import cost, generation


def samples(text: bytes | str) -> dict[tuple[str, ...], float]:
    """Value by name and values of the labels, in the order of the labels' names."""
    found = {}
    for family in text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text):
        for sample in family.samples:
            found[(sample.name, *(sample.labels[label] for label in sorted(sample.labels)))] = sample.value
    return found


def test_replies_are_counted_by_mode() -> None:
    metrics = Metrics()
    spent = cost(completion_tokens=5, nfe=2, acceptance_lengths=[4, 1], first_token_s=0.5, total_s=0.9, queue_s=0.1)
    metrics.add_replies("linear_spec", [Reply(generation(cost=spent), waited_s=0.2)] * 2)
    found = samples(metrics.text({}))
    assert found["trimode_replies_total", "stop", "linear_spec"] == 2
    assert found["trimode_generated_tokens_total", "linear_spec"] == 10
    assert found["trimode_nfe_total", "linear_spec"] == 4
    assert found["trimode_forwards_total", "decode", "linear_spec"] == 4
    assert found["trimode_acceptance_length_sum", "linear_spec"] == 10
    assert found["trimode_time_to_first_token_seconds_sum", "linear_spec"] == pytest.approx(1.4)
    assert found["trimode_inter_token_seconds_sum", "linear_spec"] == pytest.approx(0.2)
    assert found["trimode_inter_token_seconds_bucket", "0.1", "linear_spec"] == 2
    assert found["trimode_queue_seconds_sum", "linear_spec"] == pytest.approx(0.6)


def test_balancer_and_workers_are_shown_as_they_are_now() -> None:
    engine = WorkerStats(pages_total=100, pages_free=60, running=3, tokens_generated=50, nfe=20, model_s=1.5)
    engine.rows["verify"] = 7
    engine.widths, engine.chosen_tokens, engine.fixed_tokens = {"1": 30, "8": 5}, 50, {"1": 40.0, "8": 60.0}
    dead = {"index": 1, "ready": False, "outstanding_tokens": 0.0, "deaths": 2, "engine": None}
    live = {"index": 0, "ready": True, "outstanding_tokens": 9.5, "deaths": 0, "engine": engine.to_json()}
    balancer = {"waiting": 4, "running": 3, "finished": 9, "failed": 1, "cancelled": 2, "rejected": 5, "restarts": 1}
    found = samples(Metrics().text({"balancer": balancer, "workers": [live, dead]}))
    assert found["trimode_requests", "waiting"] == 4
    assert found["trimode_requests_ended_total", "rejected"] == 5
    assert (found["trimode_worker_ready", "0"], found["trimode_worker_ready", "1"]) == (1, 0)
    assert found["trimode_worker_deaths_total", "1"] == 2
    assert found["trimode_engine_pages_free", "0"] == 60
    assert found["trimode_engine_rows_total", "verify", "0"] == 7
    assert found["trimode_engine_tpf", "0"] == 2.5
    assert found["trimode_engine_cycles_by_width_total", "8", "0"] == 5
    assert found["trimode_engine_regret", "0"] == pytest.approx(0.2)
    assert found["trimode_engine_model_seconds_total", "0"] == 1.5
    assert ("trimode_engine_acceptance_length", "0") not in found  # nothing was verified


def test_the_route_counts_requests_and_other_paths_together() -> None:
    async def test() -> None:
        async with AppBench(StrictWorker).client() as client:
            await post(client, {"messages": HELLO})
            await post(client, {"messages": []})
            for number in range(5):
                await client.get(f"/nothing/{number}")
            reply: httpx.Response = await client.get("/metrics")
            assert reply.headers["content-type"].startswith("text/plain; version=")
            found = samples(reply.text)
            assert found["trimode_http_responses_total", CHAT, "200"] == 1
            assert found["trimode_http_responses_total", CHAT, "400"] == 1
            assert found["trimode_http_responses_total", "other", "404"] == 5
            assert found["trimode_replies_total", "stop", "ar"] == 1

    asyncio.run(test())
