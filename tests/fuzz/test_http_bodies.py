"""Thousands of malformed bodies against the real HTTP app, with good requests beside them.

Every body comes from a seed, so a failure can be repeated. Nothing may end in a 5xx, kill a worker, hang, or disturb a
good request.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from trimode.balancer.api.fields import NEUTRAL_VALUES, OWN_FIELDS, WITHOUT_EFFECT
from trimode.core.protocol import DECODE_FIELDS, WorkerSettings
from trimode.core.worker import Worker
from trimode.tests.fakes.app import CHAT, COMPLETIONS, AppBench, StrictWorker, error_of, post
from trimode.tests.fuzz.json_values import TEXTS, value
from trimode.tests.workers.micro import MICRO
from trimode.workers import worker

pytestmark = pytest.mark.slow

Chance = random.Random
NAMES = sorted(DECODE_FIELDS | OWN_FIELDS | set(NEUTRAL_VALUES) | WITHOUT_EFFECT)
HEADERS: list[dict[str, str]] = [
    {},
    {"content-type": "text/plain"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"content-type": "application/json; charset=utf-16"},
    {"content-encoding": "gzip"},
    {"x-request-id": "a" * 5000},
]
HANG_S = 120.0
"""A reply that takes longer counts as a hang. It takes milliseconds on an idle machine."""


def strange(chance: Chance) -> dict[str, object]:
    """A request for a prompt of ids with one strange field, which often passes."""
    name, plain = (
        chance.choice(NAMES),
        [0, 1, 1.0, 2, 0.5, 1e-40, True, False, None, [], "ar", "dlm", "linear_spec", {}],
    )
    prompt = [chance.randrange(1, 100) for _ in range(chance.randrange(1, 40))]
    return {"prompt": prompt, "max_tokens": 2, name: chance.choice(plain)}


def spoilt(chance: Chance) -> dict[str, object]:
    """A request with up to eight spoilt fields."""
    body: dict[str, object] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for _ in range(chance.randrange(1, 9)):
        name = chance.choice(NAMES) if chance.random() < 0.85 else chance.choice(TEXTS) + chance.choice(NAMES)
        body[name] = value(chance, NAMES)
    if chance.random() < 0.3:
        body.pop("messages", None)
        body["prompt"] = value(chance, NAMES) if chance.random() < 0.7 else [chance.randrange(300) for _ in range(9)]
    if chance.random() < 0.05:
        body |= {f"{chance.choice(TEXTS)}{index}": index for index in range(chance.choice([10, 200, 20_000]))}
    if chance.random() < 0.03:
        body["messages"] = [{"role": "user", "content": "word " * chance.choice([10, 5000, 600_000])}]
    return body


def body_of(chance: Chance) -> bytes:
    """The bytes of a malformed or merely strange body."""
    text = json.dumps((strange if chance.random() < 0.4 else spoilt)(chance)).encode("ascii")
    kind = chance.randrange(12)
    if kind == 0:  # cut off
        return text[: chance.randrange(len(text))]
    if kind == 1:  # one byte changed
        at = chance.randrange(len(text))
        return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
    if kind == 2:
        return text.decode().encode(chance.choice(["utf-16", "utf-32", "utf-8-sig"]))
    if kind == 3:  # a name twice
        return text[:-1] + b', "temperature": 1, "temperature": 0}'
    if kind == 4:
        deep = chance.choice([50, 900, 990, 1100, 60_000])
        return text[:-1] + f', "{chance.choice(NAMES)}": '.encode() + b"[" * deep + b"]" * deep + b"}"
    if kind == 5:
        digits = b"9" * chance.choice([18, 20, 400, 4300, 5000])
        return text[:-1] + f', "{chance.choice(NAMES)}": '.encode() + digits + b"}"
    if kind == 6:
        return chance.choice([b"", b" ", b"null", b"[]", b'"x"', b"1e999", b"\0", b"a=1&b=2", chance.randbytes(50)])
    return text


async def _good(client: httpx.AsyncClient, good: dict[str, object], expected: str) -> None:
    response = await post(client, good, COMPLETIONS)
    assert response.status_code == 200, response.text
    assert json.dumps(response.json()["choices"]) == expected


async def _attack(bench: AppBench, good: dict[str, object], num_bodies: int, seed: int) -> Counter[int]:
    """Sends the bodies, eight at a time, and a good request beside each eight. Returns how often each status came."""
    chance = Chance(seed)
    statuses: Counter[int] = Counter()
    async with bench.client() as client:
        first = await post(client, good, COMPLETIONS)
        assert first.status_code == 200, first.text
        expected = json.dumps(first.json()["choices"])

        async def bad(body: bytes) -> None:
            path = COMPLETIONS if b'"prompt"' in body else CHAT
            if chance.random() < 0.1:
                path = CHAT if path == COMPLETIONS else COMPLETIONS
            response = await post(client, body, path, **chance.choice(HEADERS))
            statuses[response.status_code] += 1
            assert response.status_code < 500, (body[:2000], response.text[:500])
            assert sum(len(name) + len(text) for name, text in response.headers.items()) < 8000
            if response.status_code != 200:
                error = error_of(response)
                assert error["type"] in ("invalid_request_error", "not_found_error"), body[:2000]
                assert len(error["message"]) < 1000

        for _ in range(0, num_bodies, 8):
            bodies = [body_of(chance) for _ in range(8)]
            async with asyncio.timeout(HANG_S):
                await asyncio.gather(_good(client, good, expected), *map(bad, bodies))
            assert bench.deaths == []
    return statuses


def attack(make: Callable[[], Worker], good: dict[str, object], num_bodies: int, seed: int, **settings: Any) -> None:
    """Runs the attack and checks that it came to its end with bodies of either kind."""
    bench = AppBench(make, **settings)
    started = time.monotonic()
    statuses = asyncio.run(_attack(bench, good, num_bodies, seed))
    print(f"{statuses} in {time.monotonic() - started:.1f} s")
    assert bench.router.num_running == 0
    assert not bench.router.queue
    assert statuses[400] > num_bodies / 2
    assert statuses[200] > num_bodies / 100


@pytest.mark.parametrize("seed", [0, 1])
def test_malformed_bodies_cost_only_themselves(seed: int) -> None:
    good: dict[str, object] = {"prompt": [5, 6, 7], "seed": 3, "max_tokens": 4}
    attack(StrictWorker, good, 2000, seed)


def test_malformed_bodies_reach_no_engine_of_a_real_worker() -> None:
    made: list[worker.Worker] = []

    def make() -> Worker:
        settings = WorkerSettings(model=str(MICRO), dtype="float32", device="cpu", max_num_seqs=4, kv_cache_gb=0.01)
        made.append(worker.Worker(settings))
        return made[-1]

    good: dict[str, object] = {"prompt": [5, 6, 7], "seed": 3, "max_tokens": 4, "return_token_ids": True}
    try:
        attack(make, good, 400, 2, num_workers=1)
    finally:
        for one in made:
            one.close()
