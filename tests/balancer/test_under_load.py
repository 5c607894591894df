"""The server with real workers where much goes wrong: hang-ups of clients, deaths in prefill, a shared journal."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from trimode.tests.fakes.balancer_process import ROOT, RunningBalancer, start_balancer, wait_for
from trimode.tests.fakes.events import read_events

pytestmark = pytest.mark.process

MODEL = ROOT / "assets" / "demo_model"
REAL = ("--model", str(MODEL), "--dtype", "float32", "--worker-class", "trimode.workers.worker:Worker")
MODES = ("ar", "dlm", "linear_spec")
LONG = "Max has 5 boxes with 6 stickers each. " * 600
"""A prompt that takes many slices to read."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBalancer]:
    """Two workers with eight slots each."""
    balancer = start_balancer(tmp_path_factory.mktemp("serving"), *REAL, "--max-num-seqs", "8")
    yield balancer
    balancer.terminate()


def engines(balancer: RunningBalancer) -> list[dict[str, Any]]:
    return [worker["engine"] for worker in balancer.stats()["workers"] if worker["engine"]]


def is_idle(balancer: RunningBalancer) -> bool:
    stats = balancer.stats()
    now = [worker["engine"] for worker in stats["workers"]]
    free = all(e and e["running"] == e["waiting"] == 0 and e["pages_free"] == e["pages_total"] for e in now)
    return free and stats["balancer"]["running"] == stats["balancer"]["waiting"] == 0


def metrics(balancer: RunningBalancer) -> dict[str, float]:
    """The sum of each metric over its labels, as Prometheus reads them."""
    found: dict[str, float] = {}
    text = httpx.get(balancer.url + "/metrics", timeout=180).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def body(mode: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "What is 2 + 3?"}
    streams = {"stream": True, "stream_options": {"include_usage": True}}
    return {"messages": [message], "mode": mode, "max_tokens": 48, "ignore_eos": True, **streams, **fields}


def test_64_streams_whose_clients_hang_up_at_any_time_cost_no_worker_and_no_page(serving: RunningBalancer) -> None:
    before, deaths = serving.stats()["balancer"], [worker["deaths"] for worker in serving.stats()["workers"]]

    def stream(number: int) -> bool:
        """Reads a random number of parts, none at all among them. Returns True if the answer was read to its end."""
        choice = random.Random(number)
        asked = body(
            MODES[number % 3], temperature=float(number % 2), seed=number, max_tokens=choice.choice((4, 64, 600))
        )
        parts = choice.choice((0, 1, 2, 5, 20, 100_000))
        with httpx.stream("POST", serving.url + "/v1/chat/completions", json=asked, timeout=180) as reply:
            assert reply.status_code == 200
            for count, _ in enumerate(reply.iter_raw(64)):
                if count >= parts:
                    return False
        return True

    with ThreadPoolExecutor(64) as threads:
        read = list(threads.map(stream, range(64)))
    assert 0 < sum(read) < 64
    wait_for(lambda: is_idle(serving))
    after = serving.stats()["balancer"]
    assert [worker["deaths"] for worker in serving.stats()["workers"]] == deaths
    assert (after["restarts"], after["failed"]) == (before["restarts"], before["failed"])
    # a client that leaves behind the last token is nobody's loss, so there may be fewer of these
    assert after["cancelled"] - before["cancelled"] <= 64 - sum(read)
    assert after["finished"] - before["finished"] >= sum(read)


def test_streams_say_what_the_engines_and_the_metrics_count(serving: RunningBalancer) -> None:
    wait_for(lambda: is_idle(serving))
    before, counted = engines(serving), metrics(serving)

    def stream(number: int) -> dict[str, Any]:
        asked = body(MODES[number % 3], temperature=float(number % 2), seed=number, max_tokens=20 + number)
        reply = httpx.post(serving.url + "/v1/chat/completions", json=asked, timeout=180)
        last = read_events(reply.text).chunks[-1]
        for name in ("nfe", "tpf", "forwards", "acceptance_lengths"):
            assert last["trimode"][name] == last["usage"][name]
        usage: dict[str, Any] = last["usage"]
        return usage

    with ThreadPoolExecutor(24) as threads:
        usages = list(threads.map(stream, range(24)))
    for number, usage in enumerate(usages):
        assert usage["completion_tokens"] == 20 + number
        assert usage["tpf"] == pytest.approx(usage["completion_tokens"] / usage["nfe"], abs=1e-4)
        if MODES[number % 3] == "ar":
            assert usage["nfe"] == 20 + number
        if MODES[number % 3] == "linear_spec":
            assert sum(usage["acceptance_lengths"]) == usage["completion_tokens"] - 1
    after, now = engines(serving), metrics(serving)
    for name, of_usage in (("nfe", "nfe"), ("tokens_generated", "completion_tokens")):
        made = sum(engine[name] for engine in after) - sum(engine[name] for engine in before)
        assert made == sum(usage[of_usage] for usage in usages)
    for metric, name in (("trimode_nfe_total", "nfe"), ("trimode_generated_tokens_total", "completion_tokens")):
        assert now[metric] - counted[metric] == sum(usage[name] for usage in usages)
    assert now["trimode_engine_nfe_total"] - counted["trimode_engine_nfe_total"] == sum(u["nfe"] for u in usages)
    assert now["trimode_replies_total"] - counted["trimode_replies_total"] == 24
    assert now["trimode_requests"] == 0
    assert now["trimode_engine_pages_free"] == now["trimode_engine_pages_total"]


@pytest.mark.parametrize("streams", [False, True])
def test_a_worker_that_is_killed_in_the_prefill_of_a_long_prompt(serving: RunningBalancer, streams: bool) -> None:
    prompt = f"{streams} {LONG}"  # unlike that of the other test, which is in the prefix cache
    asked = {"prompt": prompt, "max_tokens": 8, "mode": "ar", "seed": 3, "temperature": 1.0, "stream": streams}

    def ask() -> str:
        reply = httpx.post(serving.url + "/v1/completions", json=asked, timeout=600)
        assert reply.status_code == 200, reply.text
        return read_events(reply.text).text() if streams else str(reply.json()["choices"][0]["text"])

    wait_for(lambda: is_idle(serving))
    retried = serving.stats()["balancer"]["retried"]
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask)
        wait_for(lambda: any(engine["running"] for engine in engines(serving)))
        busy = next(worker for worker in serving.stats()["workers"] if worker["running"])
        os.kill(busy["pid"], signal.SIGKILL)
        disturbed = answer.result()
    assert serving.stats()["balancer"]["retried"] == retried + 1
    wait_for(lambda: all(worker["ready"] for worker in serving.stats()["workers"]))
    assert ask() == disturbed
    wait_for(lambda: is_idle(serving))


def test_two_servers_share_a_journal_and_one_goes_on_with_what_the_other_began(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    flags = (*REAL, "--num-workers", "1", "--journal", str(tmp_path / "journal"))
    first, second = (start_balancer(folder, *flags) for folder in folders[:2])
    asked = {"max_tokens": 6000, "ignore_eos": True, "mode": "ar", "seed": 5, "temperature": 1.0}

    def ask(balancer: RunningBalancer) -> dict[str, Any]:
        reply = balancer.ask("What is 2 + 3?", model=None, return_token_ids=True, **asked)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(ask, first)
        wait_for(lambda: any(b'"token_ids"' in file.read_bytes() for file in (tmp_path / "journal").glob("*")))
        first.process.kill()
        first.process.wait()
        with pytest.raises(httpx.TransportError):
            lost.result()
    continued = ask(second)
    assert continued["usage"]["continuations"] == 1
    assert len(continued["choices"][0]["token_ids"]) == 6000
    # both read and write the folder at a time now, and each gives what it would give alone
    third = start_balancer(folders[2], *flags)
    try:
        with ThreadPoolExecutor(2) as threads:
            pair = list(threads.map(ask, [second, third]))
    finally:
        third.terminate()
        second.terminate()
    assert [answer["choices"] for answer in pair] == [continued["choices"]] * 2
