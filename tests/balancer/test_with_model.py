"""The balancer in front of real workers and the demo checkpoint: usage and counters agree."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from trimode.balancer.delivered import PARTS_EVERY_S
from trimode.core.protocol import Mode
from trimode.tests.fakes.balancer_process import ROOT, RunningBalancer, start_balancer, wait_for
from trimode.tests.fakes.events import Events, read_events

pytestmark = pytest.mark.process

MODEL = ROOT / "assets" / "demo_model"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBalancer]:
    """Two workers with four slots each, one more request each on its way."""
    flags = ("--model", str(MODEL), "--lora", str(MODEL / "linear_spec_lora"), "--dtype", "float32")
    balancer = start_balancer(
        tmp_path_factory.mktemp("serving"), *flags, "--worker-class", "trimode.workers.worker:Worker"
    )
    yield balancer
    balancer.terminate()


def ask(balancer: RunningBalancer, mode: Mode, **fields: Any) -> dict[str, Any]:
    fields = {"max_tokens": 12, "block_length": 4, "lora": mode is Mode.linear_spec, **fields}
    reply = balancer.ask("What is 2 + 3?", model=None, mode=mode.value, **fields)
    assert reply.status_code == 200, reply.text
    usage: dict[str, Any] = reply.json()["usage"]
    return usage


def engines(stats: dict[str, Any]) -> list[dict[str, Any]]:
    return [worker["engine"] for worker in stats["workers"]]


def total(counts: list[dict[str, Any]], name: str) -> Any:
    return sum(count[name] for count in counts)


def test_replies_of_three_modes_at_once_add_up_to_the_engines_counters(serving: RunningBalancer) -> None:
    idle = serving.stats()
    with ThreadPoolExecutor(6) as threads:
        usages = list(threads.map(lambda mode: ask(serving, mode), [Mode.ar, Mode.dlm, Mode.linear_spec] * 2))
    stats = serving.stats()
    totals, counts = stats["replies"], engines(stats)
    assert totals["nfe"] == total(counts, "nfe") == idle["replies"]["nfe"] + total(usages, "nfe")
    for kind, count in totals["forwards"].items():
        assert count == sum(engine["rows"][kind] for engine in counts)
    assert totals["completion_tokens"] == total(counts, "tokens_generated")
    assert total(counts, "requests_finished") - total(engines(idle), "requests_finished") == 6


def test_stats_under_load_are_true(serving: RunningBalancer) -> None:
    idle = serving.stats()
    slots = [(4, 1), (4, 1)]
    with ThreadPoolExecutor(11) as threads:
        long = [threads.submit(ask, serving, Mode.ar, max_tokens=300, ignore_eos=True) for _ in range(11)]

        def loaded() -> bool:
            now = serving.stats()
            return (
                now["balancer"]["running"] == 10
                and now["balancer"]["waiting"] == 1
                and [(engine["running"], engine["waiting"]) for engine in engines(now)] == slots
                and all(engine["pages_free"] <= engine["pages_total"] - 4 * (300 // 16) for engine in engines(now))
            )

        wait_for(loaded)
        usages = [future.result() for future in long]
    spec = [ask(serving, Mode.linear_spec) for _ in range(2)]
    stats = serving.stats()
    for engine, before in zip(engines(stats), engines(idle), strict=True):
        assert (engine["running"], engine["waiting"], engine["pages_free"]) == (0, 0, engine["pages_total"])
        busy_s = engine["model_s"] + engine["host_s"]
        assert engine["tpf"] == pytest.approx(engine["tokens_generated"] / engine["nfe"])
        if engine["cycles"]:
            assert engine["acceptance_length"] == pytest.approx(engine["accepted"] / engine["cycles"])
        assert engine["tokens_per_second"] == pytest.approx(engine["tokens_generated"] / busy_s)
        assert engine["forwards_per_second"] == pytest.approx(engine["steps"] / busy_s)
        assert 0 < engine["host_gap"] == pytest.approx(engine["host_s"] / busy_s)
        assert engine["steps"] - before["steps"] < engine["rows"]["decode"] - before["rows"]["decode"]  # together
    made = [
        sum(engine[name] for engine in engines(stats)) - sum(engine[name] for engine in engines(idle))
        for name in ("tokens_generated", "nfe", "accepted", "cycles")
    ]
    lengths = [length for usage in spec for length in usage["acceptance_lengths"]]
    reported = [total(usages + spec, "completion_tokens"), total(usages + spec, "nfe")]
    assert made == [*reported, sum(lengths), len(lengths)]


def test_a_refusal_names_its_field(serving: RunningBalancer) -> None:
    refused = serving.ask("hello", model=None, top_p=7)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_p"


def stream(balancer: RunningBalancer, mode: str, on_chunk: Callable[[int], None], **fields: Any) -> Events:
    """Streams one long answer; calls `on_chunk` with the number of chunks that have come."""
    body = {
        "messages": [{"role": "user", "content": "What is 2 + 3?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "stream_events": "denoise",
        "mode": mode,
        "max_tokens": 400,
        "ignore_eos": True,
        "temperature": 1.0,
        "seed": 7,
        "logprobs": True,
        **fields,
    }
    received, count = "", 0
    with httpx.stream("POST", balancer.url + "/v1/chat/completions", json=body, timeout=180) as reply:
        assert reply.status_code == 200
        for text in reply.iter_text():
            received += text
            if (now := received.count("data: {")) > count:
                count = now
                on_chunk(count)
    return read_events(received)


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_stream_goes_on_after_its_worker_was_killed(serving: RunningBalancer, mode: str) -> None:
    undisturbed = stream(serving, mode, lambda _: None)
    killed: list[int] = []

    def kill(count: int) -> None:
        if count > 6 and not killed:
            killed.extend(worker["pid"] for worker in serving.stats()["workers"] if worker["running"])
            os.kill(killed[0], signal.SIGKILL)

    retried = serving.stats()["balancer"]["retried"]
    events = stream(serving, mode, kill)
    assert serving.stats()["balancer"]["retried"] == retried + 1
    assert events.text() == undisturbed.text()
    assert events.finish_reasons() == ["length"]
    assert named_tokens(events) == named_tokens(undisturbed)
    assert [(one["block"], one["pass"], one["start"]) for one in events.denoise] == [
        (one["block"], one["pass"], one["start"]) for one in undisturbed.denoise
    ]
    usage, expected = (each.chunks[-1]["usage"] for each in (events, undisturbed))
    apart = {"queue_s", "first_token_s", "total_s", "forwards_saved", "continuations"}
    assert {k: v for k, v in usage.items() if k not in apart} == {k: v for k, v in expected.items() if k not in apart}
    assert usage["continuations"] == 1
    wait_for(lambda: all(worker["ready"] for worker in serving.stats()["workers"]))


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_whole_answer_goes_on_after_its_worker_was_killed(serving: RunningBalancer, mode: str) -> None:
    fields = {"max_tokens": 3000, "ignore_eos": True, "temperature": 1.0, "seed": 7, "block_length": 4, "mode": mode}

    def whole() -> dict[str, Any]:
        reply = serving.ask("What is 2 + 3?", model=None, return_token_ids=True, **fields)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(whole)
        wait_for(lambda: sum(engine["running"] for engine in engines(serving.stats()) if engine) == 1)
        time.sleep(PARTS_EVERY_S)  # from now on a part is due, and the next stats come behind it
        begun = sum(engine["steps"] for engine in engines(serving.stats()) if engine)
        wait_for(lambda: sum(engine["steps"] for engine in engines(serving.stats()) if engine) > begun + 100)
        os.kill(next(worker["pid"] for worker in serving.stats()["workers"] if worker["running"]), signal.SIGKILL)
        disturbed = answer.result()
    undisturbed = whole()
    assert disturbed["usage"]["continuations"] == 1
    assert disturbed["choices"] == undisturbed["choices"]
    assert disturbed["usage"]["nfe"] == undisturbed["usage"]["nfe"]
    assert disturbed["usage"]["forwards"] == undisturbed["usage"]["forwards"]
    assert disturbed["usage"]["acceptance_lengths"] == undisturbed["usage"]["acceptance_lengths"]
    wait_for(lambda: all(worker["ready"] for worker in serving.stats()["workers"]))


def named_tokens(events: Events) -> list[tuple[str, float]]:
    choices = [choice for chunk in events.chunks for choice in chunk["choices"] if choice["logprobs"]]
    entries = [entry for choice in choices for entry in choice["logprobs"]["content"]]
    return [(entry["token"], pytest.approx(entry["logprob"], abs=1e-4)) for entry in entries]


def test_a_client_that_leaves_a_stream_frees_its_slot(serving: RunningBalancer) -> None:
    body = {"messages": [{"role": "user", "content": "1"}], "stream": True, "ignore_eos": True, "max_tokens": 8000}
    cancelled = serving.stats()["balancer"]["cancelled"]
    with httpx.stream("POST", serving.url + "/v1/chat/completions", json=body, timeout=180) as reply:
        next(reply.iter_bytes())
    wait_for(lambda: serving.stats()["balancer"]["cancelled"] == cancelled + 1)
    wait_for(lambda: not any(engine["running"] for engine in engines(serving.stats())))


def test_64_streams_at_once(serving: RunningBalancer) -> None:
    with ThreadPoolExecutor(64) as threads:
        modes = ["ar", "dlm", "linear_spec", "ar"] * 16
        found = list(threads.map(lambda mode: stream(serving, mode, lambda _: None, max_tokens=24), modes))
    assert {len(named_tokens(events)) for events in found} == {24}
    for mode, events in zip(modes, found, strict=True):
        assert events.text() == found[modes.index(mode)].text()
