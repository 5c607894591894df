"""The engine as its users see it: joins and leaves, admission, faults, shared prefixes, counters."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping

import pytest
import torch
from trimode.core.errors import GenerationError
from trimode.core.protocol import FORWARD_KINDS, ModeDefaults, Top
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import load_cases
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.decode.registry import MODES
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.model.kv_cache import PAGE_SIZE
from trimode.workers.runtime import Runtime

CASES = {case.name: case for case in load_cases()}
SHORT = [case for case in CASES.values() if case.name.split("-")[0] in ("1", "2", "3") and case.nfe < 60]
PROMPT = [1, 50, 22, 18, 35, 28, 38, 18, 31, 24, 42, 18, 4, 7, 18, 25]


def finish(runtime: Runtime) -> list[Sequence]:
    ended = []
    while runtime.engine.busy:
        ended += runtime.engine.step()
    return ended


def with_limits(runtime: Runtime, **limits: int) -> Runtime:
    """The same model behind a fresh engine with these limits on prefill."""
    changed = copy.copy(runtime)
    changed.engine = Engine(runtime.engine.model, runtime.engine.allocator.num_pages, 8, **limits)
    return changed


def answer(runtime: Runtime, **fields: object) -> Sequence:
    sequence = runtime.submit("request", {"prompt_ids": PROMPT, **fields})
    finish(runtime)
    return sequence


@pytest.mark.parametrize("seed", range(3))
def test_sum_of_requests_is_the_engine_s_count(micro: Runtime, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Under random load: prompts in slices, requests that arrive late, leave early or fail."""
    runtime = with_limits(micro, prefill_slice=7)
    monkeypatch.setitem(MODES, "broken", BrokenState)
    chance = random.Random(seed)
    sequences: list[Sequence] = []
    while len(sequences) < 12 or runtime.engine.busy:
        if len(sequences) < 12 and chance.random() < 0.5:
            prompt = [chance.randrange(3, 72) for _ in range(chance.randrange(1, 40))]
            mode = chance.choice(["ar", "dlm", "linear_spec", "broken"])
            fields = {"prompt_ids": prompt, "mode": mode, "block_length": 4, "max_new_tokens": chance.randrange(1, 30)}
            sequences.append(runtime.submit(str(len(sequences)), fields | {"ignore_eos": chance.random() < 0.8}))
        if sequences and chance.random() < 0.1:
            runtime.engine.cancel(chance.choice(sequences))
        runtime.engine.step()
    counters = runtime.engine.counters
    for kind in FORWARD_KINDS:
        saved = sum(s.state.forwards_saved for s in sequences) if kind == "prefill" else 0
        assert counters.rows[kind] == sum(s.state.forwards[kind] for s in sequences) - saved, kind
    whole = [runtime.generation(s) for s in sequences if s.error is None]
    assert counters.requests_finished == len(whole)
    left = sum(s.error is not None and s.error.status == 499 for s in sequences)
    assert counters.requests_cancelled == left > 0
    assert counters.requests_failed == len(sequences) - len(whole) - left
    assert counters.tokens_generated == sum(len(g.token_ids) for g in whole)
    assert counters.nfe == sum(g.cost.nfe for g in whole)
    assert counters.accepted == sum(sum(g.cost.acceptance_lengths) for g in whole)
    assert counters.cycles == sum(g.cost.forwards["verify"] for g in whole)
    assert runtime.engine.allocator.num_free == runtime.engine.allocator.num_pages


def test_a_short_request_leaves_before_its_long_neighbour(micro: Runtime) -> None:
    micro.submit("long", {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 60, "ignore_eos": True})
    micro.submit("short", {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 3, "ignore_eos": True})
    assert [s.request_id for s in finish(micro)] == ["short", "long"]


def test_a_full_cache_queues_and_everybody_finishes() -> None:
    runtime = Runtime(micro_settings(kv_cache_gb=0.002))
    for number in range(20):
        runtime.submit(str(number), {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 90, "ignore_eos": True})
    runtime.engine.step()
    assert runtime.engine.waiting
    assert all(s.error is None for s in finish(runtime))
    assert runtime.engine.allocator.num_free == runtime.engine.allocator.num_pages


def test_what_never_fits_is_refused_with_the_numbers() -> None:
    runtime = Runtime(micro_settings(kv_cache_gb=0.001))
    with pytest.raises(GenerationError, match=r"needs \d+ pages .* the cache has \d+"):
        runtime.submit("big", {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 3000})
    with pytest.raises(GenerationError, match="maximum context length is 4096 tokens"):
        runtime.submit("long", {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 5000})


def test_a_common_prefix_is_computed_once(micro: Runtime) -> None:
    prompt = CASES["0-ar"].fields["prompt_ids"]
    first = micro.submit("first", {"prompt_ids": prompt, "mode": "ar", "max_new_tokens": 8})
    finish(micro)
    again = micro.submit("again", {"prompt_ids": prompt, "mode": "dlm", "max_new_tokens": 8})
    finish(micro)
    assert isinstance(prompt, list)
    assert again.num_shared_tokens == (len(prompt) - 1) // PAGE_SIZE * PAGE_SIZE
    assert again.state.tokens()[0] == first.state.tokens()[0]


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_request_counts_the_same_forwards_whatever_ran_before_it(micro: Runtime, mode: str) -> None:
    """What the prefix cache saves is counted apart."""
    prompt = [5 + number % 50 for number in range(3 * PAGE_SIZE + 3)]
    fields = {"prompt_ids": prompt, "mode": mode, "max_new_tokens": 8, "ignore_eos": True}
    runtime = with_limits(micro, prefill_slice=7)
    costs = []
    for number in range(3):
        sequence = runtime.submit(str(number), fields)
        finish(runtime)
        costs.append(runtime.generation(sequence).cost)
    alone, again, later = costs
    assert alone.forwards["prefill"] == -(-len(prompt) // 7)
    assert alone.forwards_saved == 0
    assert (again.forwards, again.nfe) == (alone.forwards, alone.nfe)
    run = -(-(len(prompt) - 3 * PAGE_SIZE) // 7)
    assert again.forwards_saved == later.forwards_saved == alone.forwards["prefill"] - run
    assert runtime.engine.counters.rows["prefill"] == alone.forwards["prefill"] + 2 * run


def test_slices_of_a_long_prompt_give_the_same_answer(micro: Runtime) -> None:
    case = CASES["1-linear_spec_0.0"]
    runtime = with_limits(micro, prefill_slice=7)
    sequence = runtime.submit("sliced", case.fields)
    finish(runtime)
    assert sequence.state.forwards["prefill"] > 1
    assert (sequence.state.tokens(), runtime.generation(sequence).cost.nfe) == (case.tokens, case.nfe)


def test_prompts_of_a_step_are_limited_and_decoding_goes_on(micro: Runtime) -> None:
    runtime = with_limits(micro, prefill_slice=8, max_step_prefill=16)
    engine = runtime.engine
    base = {"mode": "ar", "max_new_tokens": 30, "ignore_eos": True}
    running = runtime.submit("running", base | {"prompt_ids": [5, 6]})
    engine.step()
    for number in range(4):
        runtime.submit(str(number), base | {"prompt_ids": [7 + number] * 24})
    for _ in range(6):  # 4 prompts of 3 slices, 2 slices a step
        tokens, answered = engine.counters.step_tokens, len(running.state.output)
        engine.step()
        assert len(running.state.output) == answered + 1
        assert engine.counters.step_tokens - tokens <= 16 + len(engine.running)
    finish(runtime)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_a_repetition_penalty_leaves_linear_spec_lossless(micro: Runtime, threshold: float) -> None:
    """The past of a verified row holds the drafts before it, as token by token."""
    for prompt in (PROMPT, PROMPT[:7], [5, 6, 7]):
        fields = {"prompt_ids": prompt, "max_new_tokens": 40, "ignore_eos": True, "repetition_penalty": 1.8}
        ar = micro.submit("ar", fields | {"mode": "ar"})
        spec = micro.submit("spec", fields | {"mode": "linear_spec", "threshold": threshold})
        finish(micro)
        assert spec.state.tokens() == ar.state.tokens()


def test_pages_are_shared_only_once_they_are_computed(micro: Runtime) -> None:
    case = CASES["1-ar"]
    runtime = with_limits(micro, prefill_slice=7)
    first = runtime.submit("first", case.fields)
    runtime.engine.step()
    second = runtime.submit("second", case.fields)
    finish(runtime)
    assert second.num_shared_tokens == 0
    assert first.state.tokens() == second.state.tokens() == case.tokens


def test_nan_ends_its_own_request_only(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = micro.submit("bad", {"prompt_ids": PROMPT[:9], "mode": "ar", "max_new_tokens": 9, "ignore_eos": True})
    good = micro.submit("good", {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 9, "ignore_eos": True})
    micro.engine.step()
    head = micro.engine.model.head

    def poisoned(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        logits[0] = float("nan")  # the batch is ordered by KV length: the shorter request comes first
        return logits

    monkeypatch.setattr(micro.engine.runner.sampler, "head", poisoned)
    ended = micro.engine.step()
    monkeypatch.undo()
    finish(micro)
    assert ended == [bad]
    assert bad.error is not None
    assert "not finite" in bad.error.message
    assert good.error is None


def test_what_a_broken_request_cached_reaches_nobody(micro: Runtime) -> None:
    cache, prompt = micro.engine.runner.cache, (PROMPT[::-1] * 200)[: 3 * PAGE_SIZE]
    bad = micro.submit("bad", {"prompt_ids": prompt, "mode": "ar", "max_new_tokens": 9, "ignore_eos": True})
    micro.engine.step()
    micro.engine.step()
    offered = micro.engine.allocator.match(prompt)
    micro.engine.allocator.release(offered)
    assert offered
    layers = [cache.layer(number) for number in range(micro.engine.model.config.num_layers)]
    for layer in layers:
        layer[bad.pages] = float("nan")
    assert micro.engine.step() == [bad]
    assert bad.error is not None
    assert not any(layer.isnan().any() for layer in layers)
    assert micro.engine.allocator.match(prompt) == []


def test_a_cancelled_request_gives_its_pages_back(micro: Runtime) -> None:
    free = micro.engine.allocator.num_free
    sequence = micro.submit("gone", {"prompt_ids": PROMPT, "mode": "dlm", "max_new_tokens": 900, "ignore_eos": True})
    micro.engine.step()
    micro.engine.cancel(sequence)
    assert finish(micro) == [sequence]
    assert sequence.error is not None
    assert sequence.error.status == 499
    assert micro.engine.allocator.num_free == free


class BrokenState(ArState):
    """Fails at its third token."""

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        if len(self.output) == 2:
            raise RuntimeError("broken on purpose")
        super()._advance(chunk, sampled)


class EchoState(DecodeState):
    """A fourth mode: verifies a draft made of its own last token."""

    defaults = ModeDefaults(block_length=2, threshold=None)

    @staticmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        return forwards["decode"]

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:  # noqa: ARG002
        self._emit([token], [logprob])

    def _next_chunk(self) -> Chunk:
        return Chunk("decode", self.output[-1:], self.cached, True, True, (0,), "decode", sample_offset=1)

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        self.cached += len(chunk.token_ids)
        self._emit(sampled.tokens, sampled.logprobs)


def test_an_exception_in_one_state_leaves_the_others_alone(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODES, "broken", BrokenState)
    broken = micro.submit("broken", {"prompt_ids": PROMPT, "mode": "broken", "max_new_tokens": 9, "ignore_eos": True})
    good = micro.submit("good", {"prompt_ids": PROMPT, "mode": "ar", "max_new_tokens": 9, "ignore_eos": True})
    finish(micro)
    assert broken.error is not None
    assert broken.error.status == 500
    assert len(good.state.tokens()) == 9


def test_a_fourth_mode_is_one_class_and_one_line(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODES, "echo", EchoState)
    fields = {"prompt_ids": PROMPT, "max_new_tokens": 9, "ignore_eos": True}
    echo = micro.submit("echo", {**fields, "mode": "echo"})
    ar = micro.submit("ar", {**fields, "mode": "ar"})
    micro.submit("dlm", {**fields, "mode": "dlm"})
    finish(micro)
    assert echo.state.tokens() == ar.state.tokens()


def test_output_never_exceeds_max_new_tokens_and_the_last_block_runs_whole(micro: Runtime) -> None:
    case = CASES["2-dlm_0.9"]
    whole = micro.submit("whole", case.fields)
    cut = micro.submit("cut", {**case.fields, "max_new_tokens": 5})
    finish(micro)
    assert cut.state.tokens() == whole.state.tokens()[:5]
    block = case.fields["block_length"]
    assert isinstance(block, int)
    assert cut.state.trace == (whole.state.trace or [])[: -(-5 // block)]


def test_end_of_thinking_is_forced_once_in_linear_spec(micro: Runtime) -> None:
    fields = {"max_thinking_tokens": 10, "end_think_token_id": 20, "max_new_tokens": 60, "ignore_eos": True}
    sequence = answer(micro, mode="linear_spec", block_length=8, **fields)
    tokens = sequence.state.tokens()
    assert tokens.count(20) == 1
    assert tokens.index(20) >= 10


def test_a_budget_without_thinking_changes_nothing(micro: Runtime) -> None:
    with_budget = answer(micro, mode="ar", max_new_tokens=30, max_thinking_tokens=3)
    assert with_budget.state.tokens() == answer(micro, mode="ar", max_new_tokens=30).state.tokens()


@pytest.mark.parametrize("mode", ["ar", "dlm"])
def test_lora_never_touches_ar_and_dlm(micro: Runtime, mode: str) -> None:
    plain = answer(micro, mode=mode, max_new_tokens=40)
    with_lora = answer(micro, mode=mode, max_new_tokens=40, lora=True)
    assert with_lora.state.tokens() == plain.state.tokens()
    assert with_lora.state.trace == plain.state.trace


def test_block_of_one_decodes_in_every_mode(micro: Runtime) -> None:
    ar = answer(micro, mode="ar", max_new_tokens=12).state.tokens()
    for mode in ("dlm", "linear_spec"):
        assert answer(micro, mode=mode, block_length=1, max_new_tokens=12).state.tokens() == ar


def test_logprobs_stand_beside_every_token(micro: Runtime) -> None:
    for mode in ("ar", "dlm", "linear_spec"):
        sequence = answer(micro, mode=mode, max_new_tokens=20, logprobs=True)
        generation = micro.generation(sequence)
        assert generation.logprobs is not None
        assert len(generation.logprobs) == len(generation.token_ids)
        assert all(value <= 1e-6 for value in generation.logprobs)


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_seed_gives_the_same_text_again_whatever_its_batch_mates(micro: Runtime, mode: str) -> None:
    fields: dict[str, object] = {
        "prompt_ids": PROMPT,
        "mode": mode,
        "max_new_tokens": 24,
        "temperature": 1.5,
        "seed": 7,
        "ignore_eos": True,
    }
    alone = micro.submit("alone", fields)
    finish(micro)
    others = [micro.submit(f"other{seed}", {**fields, "seed": seed}) for seed in (1, 2)]
    again = micro.submit("again", fields)
    finish(micro)
    assert again.state.tokens() == alone.state.tokens()
    assert all(other.state.tokens() != alone.state.tokens() for other in others)


@pytest.mark.parametrize("limit", [5, 8, 13])
@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_an_answer_never_exceeds_its_limit(micro: Runtime, mode: str, limit: int) -> None:
    fields = {"prompt_ids": PROMPT, "mode": mode, "max_new_tokens": limit, "block_length": 8, "ignore_eos": True}
    sequence = micro.submit("cut", fields | ({"block_length": 1} if mode == "ar" else {}))
    finish(micro)
    assert len(sequence.state.tokens()) == limit
    assert sequence.state.finish_reason == "length"
