"""A request that goes on in another engine gives, to the bit, what it gives undisturbed: at every boundary it can have.

The bits are those of the compiled CPU kernels, see docs/kernels.md on batch invariance.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from trimode.core.continuation import Continuation, join
from trimode.core.errors import GenerationError
from trimode.kernels.llvm.jit import num_lanes
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import load_cases
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.runtime import Runtime

pytestmark = pytest.mark.skipif(not num_lanes(), reason="bitwise only with our CPU kernels")

CASES = {case.name: case for case in load_cases()}
PROMPTS = [case.fields["prompt_ids"] for case in CASES.values() if case.name.endswith("-ar")]
Json = dict[str, Any]

KINDS: dict[str, Json] = {
    "ar": {"mode": "ar"},
    "ar sampled": {"mode": "ar", "temperature": 0.8, "seed": 5, "top_p": 0.9},
    "ar penalty": {"mode": "ar", "repetition_penalty": 1.3},
    "ar thinking": {"mode": "ar", "max_thinking_tokens": 7, "end_think_token_id": 30},
    "dlm": {"mode": "dlm", "block_length": 8, "threshold": 0.9},
    "dlm quota": {"mode": "dlm", "block_length": 4, "threshold": None},
    "dlm sampled": {"mode": "dlm", "block_length": 4, "threshold": 0.6, "temperature": 0.9, "seed": 2},
    "dlm penalty": {"mode": "dlm", "block_length": 4, "threshold": 0.7, "repetition_penalty": 1.2},
    "dlm thinking": {"mode": "dlm", "block_length": 4, "max_thinking_tokens": 12, "end_think_token_id": 30},
    "dlm thinking inside": {"mode": "dlm", "block_length": 8, "max_thinking_tokens": 13, "end_think_token_id": 30},
    "spec": {"mode": "linear_spec", "block_length": 8},
    "spec lora": {"mode": "linear_spec", "block_length": 8, "lora": True},
    "spec threshold": {"mode": "linear_spec", "block_length": 8, "threshold": 0.5, "lora": True},
    "spec rejection": {"mode": "linear_spec", "block_length": 6, "temperature": 0.8, "seed": 3, "lora": True},
    "spec equality": {"mode": "linear_spec", "temperature": 0.8, "seed": 3, "acceptance": "equality"},
    "spec penalty": {"mode": "linear_spec", "block_length": 4, "repetition_penalty": 1.2},
    "spec thinking": {"mode": "linear_spec", "max_thinking_tokens": 9, "end_think_token_id": 30},
}
SHARED: Json = {"max_new_tokens": 40, "ignore_eos": True, "logprobs": True}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if request.param == "bfloat16" and torch.cpu._is_amx_tile_supported():
        pytest.skip("with AMX, products in bfloat16 are oneDNN's")
    return Runtime(micro_settings(dtype=request.param))


def fresh(runtime: Runtime) -> None:
    """Gives the runtime an engine that has computed nothing yet."""
    old = runtime.engine
    runtime.engine = Engine(old.model, old.allocator.num_pages, 8, prefill_slice=16)


def boundaries(runtime: Runtime, sequence: Sequence) -> Iterator[Continuation]:
    """Runs a request alone and yields it at each of its boundaries, and between them too."""
    while runtime.engine.busy:
        runtime.engine.step()
        found = sequence.boundary()
        if found is not None:
            yield Continuation.from_json(json.loads(json.dumps(found.to_json())))


def result(runtime: Runtime, sequence: Sequence) -> Json:
    assert sequence.error is None, sequence.error
    found = runtime.generation(sequence).to_json()
    return {key: value for key, value in found.items() if not key.endswith("_s") and key != "continuations"}


def run(runtime: Runtime, wanted: list[Json]) -> list[Sequence]:
    sequences = [runtime.submit("request" if i == 0 else f"mate {i}", fields) for i, fields in enumerate(wanted)]
    while runtime.engine.busy:
        runtime.engine.step()
    return sequences


def mates(chance: random.Random) -> list[Json]:
    """Random requests of all kinds, some of which end early."""
    found = []
    for _ in range(chance.randrange(1, 6)):
        fields = {**SHARED, **chance.choice(list(KINDS.values())), "prompt_ids": chance.choice(PROMPTS)}
        found.append(fields | {"max_new_tokens": chance.randrange(1, 24)})
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_boundary_alone_and_in_a_batch(runtime: Runtime, kind: str) -> None:
    chance = random.Random(kind)
    fields: Json = {**SHARED, **KINDS[kind], "prompt_ids": chance.choice(PROMPTS)}
    fresh(runtime)
    sequence = runtime.submit("request", fields)
    found = {at.end: at for at in boundaries(runtime, sequence)}
    whole = result(runtime, sequence)
    assert len(found) >= 3
    for at in found.values():
        fresh(runtime)
        alone = run(runtime, [fields | {"continuation": at.to_json()}])[0]
        assert result(runtime, alone) == whole, at.end
        fresh(runtime)
        among = run(runtime, [fields | {"continuation": at.to_json()}, *mates(chance)])[0]
        assert result(runtime, among) == whole, at.end
        assert runtime.generation(among).cost.continuations == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(16))
def test_goldens_from_some_boundaries(micro: Runtime, number: int) -> None:
    chance = random.Random(number)
    runtime = Runtime(micro.settings)
    for case in CASES.values():
        if not case.name.startswith(f"{number}-"):
            continue
        fresh(runtime)
        sequence = runtime.submit("request", case.fields)
        found = list({at.end: at for at in boundaries(runtime, sequence)}.values())
        whole = result(runtime, sequence)
        for at in chance.sample(found, min(3, len(found))):
            fresh(runtime)
            got = result(runtime, run(runtime, [case.fields | {"continuation": at.to_json()}])[0])
            assert got == whole, (case.name, at.end)
            assert (got["token_ids"], got["nfe"], got["trace"]) == (case.tokens, case.nfe, case.trace)


@pytest.mark.parametrize("kind", KINDS)
def test_continued_again_and_again(runtime: Runtime, kind: str) -> None:
    """Every step of the request runs in another engine."""
    fields: Json = {**SHARED, **KINDS[kind], "prompt_ids": PROMPTS[0], "max_new_tokens": 30}
    fresh(runtime)
    whole = result(runtime, run(runtime, [fields])[0])
    at: Continuation | None = None
    lives = 0
    while True:
        fresh(runtime)
        sequence = runtime.submit("request", fields if at is None else fields | {"continuation": at.to_json()})
        begun = 0 if at is None else at.end
        at = next((later for later in boundaries(runtime, sequence) if later.end > begun), None)
        if at is None:
            break
        lives += 1
    assert result(runtime, sequence) == whole
    assert runtime.generation(sequence).cost.continuations == lives > 1


def test_parts_join_to_the_whole(runtime: Runtime) -> None:
    for fields in KINDS.values():
        fresh(runtime)
        sequence = runtime.submit("request", {**SHARED, **fields, "prompt_ids": PROMPTS[1]})
        parts: list[Continuation] = []
        tokens = entries = 0
        while runtime.engine.busy:
            runtime.engine.step()
            part, whole = sequence.boundary(tokens, entries), sequence.boundary()
            if part is None or whole is None:
                continue
            parts.append(part)
            tokens, entries = part.end, len(whole.trace or ())
            assert join(parts) == whole


@pytest.mark.parametrize(("text", "stop"), [("mode", "o"), ("a", "the")])
def test_stop_strings(text: str, stop: str) -> None:
    from trimode.core.project import PROJECT_DIR
    from trimode.core.protocol import WorkerSettings

    runtime = Runtime(WorkerSettings(model=str(PROJECT_DIR / "assets" / "demo_model"), device="cpu", kv_cache_gb=0.1))
    for mode in ("ar", "dlm", "linear_spec"):
        fields: Json = {"prompt": text, "mode": mode, "stop": [stop], "max_new_tokens": 30, "ignore_eos": True}
        fresh(runtime)
        sequence = runtime.submit("request", fields)
        found = {at.end: at for at in boundaries(runtime, sequence)}
        whole = result(runtime, sequence)
        for at in found.values():
            fresh(runtime)
            assert result(runtime, run(runtime, [fields | {"continuation": at.to_json()}])[0]) == whole


def test_reading_again_is_counted_apart(runtime: Runtime) -> None:
    fields: Json = {**SHARED, **KINDS["spec"], "prompt_ids": PROMPTS[0] * 3}
    fresh(runtime)
    sequence = runtime.submit("request", fields)
    *_, at = boundaries(runtime, sequence)
    fresh(runtime)
    continued = run(runtime, [fields | {"continuation": at.to_json()}])[0]
    counters, forwards = runtime.engine.counters, continued.state.forwards
    known = len(PROMPTS[0] * 3) + at.end - 1
    assert (counters.continued_requests, counters.continued_tokens) == (1, at.end)
    assert counters.continued_rows == -(-known // 16)
    assert counters.rows["prefill"] == 0
    assert counters.rows["verify"] == forwards["verify"] - at.forwards["verify"] > 0
    assert counters.tokens_generated == len(continued.state.tokens())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 9}, "another request"),
        ({"max_new_tokens": 39}, "another request"),
        ({"prompt_ids": [5, 6]}, "another request"),
    ],
)
def test_a_continuation_of_another_request_is_refused(runtime: Runtime, change: Json, words: str) -> None:
    fields: Json = {**SHARED, **KINDS["dlm"], "prompt_ids": PROMPTS[0]}
    fresh(runtime)
    *_, at = boundaries(runtime, runtime.submit("request", fields))
    with pytest.raises(GenerationError, match=words):
        runtime.submit("request", fields | change | {"continuation": at.to_json()})


@pytest.mark.parametrize(
    "damage",
    [
        {"token_ids": []},
        {"token_ids": [1] * 40},
        {"token_ids": [-1]},
        {"token_ids": "ab"},
        {"token_ids": [10**6]},
        {"next_token": None},
        {"logprobs": [0.0]},
        {"forwards": {"walk": 1}},
        {"forwards": 3},
        {"start": 1},
        {"more": 1},
    ],
)
def test_a_damaged_continuation_is_refused(runtime: Runtime, damage: Json) -> None:
    fields: Json = {**SHARED, **KINDS["dlm"], "prompt_ids": PROMPTS[0]}
    fresh(runtime)
    *_, at = boundaries(runtime, runtime.submit("request", fields))
    with pytest.raises(GenerationError, match="continuation: "):
        runtime.submit("request", fields | {"continuation": at.to_json() | damage})
    with pytest.raises(GenerationError, match="continuation: got a list of 1; valid: "):
        runtime.submit("request", fields | {"continuation": [1]})
