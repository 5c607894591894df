"""Log-probabilities: of the pass that committed a token, with alternatives, and of the prompt, against float64."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.core.errors import GenerationError
from trimode.core.protocol import Generation
from trimode.tests.workers.float64 import Float64Decoder
from trimode.tests.workers.micro import MICRO, load_cases
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.runtime import Runtime

PROMPT = load_cases()[0].fields["prompt_ids"]
assert isinstance(PROMPT, list)
MODES = ["ar", "dlm", "linear_spec"]
ASK: dict[str, object] = {"prompt_ids": PROMPT, "ignore_eos": True, "logprobs": True}


def answer(runtime: Runtime, **fields: object) -> Generation:
    return answers(runtime, fields)[0]


def answers(runtime: Runtime, *requests: dict[str, object]) -> list[Generation]:
    """The answers to requests that run together."""
    sequences = [runtime.submit(str(number), {**ASK, **fields}) for number, fields in enumerate(requests)]
    while runtime.engine.busy:
        runtime.engine.step()
    assert [sequence.error for sequence in sequences] == [None] * len(sequences)
    return [runtime.generation(sequence) for sequence in sequences]


@pytest.fixture(scope="module")
def exact() -> Float64Decoder:
    return Float64Decoder(MICRO)


def causal(exact: Float64Decoder, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities after each token, in float64 `[tokens, V]`."""
    empty = torch.zeros(2, 0, exact.config.num_kv_heads, exact.config.head_dim).double()
    chunk = Chunk("prefill", tokens, 0, True, True, range(len(tokens)), "decode")
    return exact._forward(chunk, [empty] * exact.config.num_layers)[0].log_softmax(-1)


def without_mask(exact: Float64Decoder, row: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """The most probable tokens of a row that may be sampled."""
    allowed = row.clone()
    allowed[exact.config.mask_token_id] = -math.inf
    best = allowed.topk(count)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def same(found: object, expected: list[tuple[int, float]]) -> None:
    assert isinstance(found, tuple)
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4)


@pytest.mark.parametrize("mode", ["ar", "linear_spec"])
def test_generated_tokens_have_the_alternatives_of_the_causal_pass(
    micro: Runtime, exact: Float64Decoder, mode: str
) -> None:
    got = answer(micro, mode=mode, max_new_tokens=20, top_logprobs=4)
    rows = causal(exact, [*PROMPT, *got.token_ids])[len(PROMPT) - 1 :]
    assert got.top_logprobs is not None
    assert got.logprobs is not None
    assert len(got.top_logprobs) == len(got.logprobs) == 20
    for row, token, value, top in zip(rows, got.token_ids, got.logprobs, got.top_logprobs, strict=False):
        assert value == pytest.approx(row[token].item(), abs=1e-4)
        same(top, without_mask(exact, row, 4))


@pytest.mark.parametrize("mode", MODES)
def test_a_greedy_token_is_its_own_first_alternative_to_the_bit(micro: Runtime, mode: str) -> None:
    got = answer(micro, mode=mode, max_new_tokens=24, top_logprobs=1)
    assert got.logprobs is not None
    assert got.top_logprobs == [((t, value),) for t, value in zip(got.token_ids, got.logprobs, strict=True)]


@pytest.mark.parametrize("mode", MODES)
def test_alternatives_change_nothing_else_and_do_not_depend_on_batch_mates(micro: Runtime, mode: str) -> None:
    fields: dict[str, object] = {"mode": mode, "max_new_tokens": 16}
    alone = answer(micro, **fields, top_logprobs=3)
    plain, again, _, twenty = answers(
        micro, fields, {**fields, "top_logprobs": 3}, {"mode": "ar", "max_new_tokens": 9, "temperature": 1.0},
        {**fields, "top_logprobs": 20},
    )  # fmt: skip
    assert (plain.token_ids, plain.logprobs, plain.top_logprobs) == (alone.token_ids, alone.logprobs, None)
    assert (plain.cost.forwards, plain.trace) == (alone.cost.forwards, alone.trace)
    assert again.top_logprobs == alone.top_logprobs
    assert twenty.top_logprobs is not None
    assert [top[:3] for top in twenty.top_logprobs] == alone.top_logprobs


def test_alternatives_end_where_the_output_is_cut(micro: Runtime) -> None:
    whole = answer(micro, mode="linear_spec", max_new_tokens=24, top_logprobs=2)
    end = whole.token_ids[6]
    cut = answer(micro, mode="linear_spec", max_new_tokens=24, top_logprobs=2, stop_token_ids=[end])
    assert whole.top_logprobs is not None
    assert cut.top_logprobs == whole.top_logprobs[: len(cut.token_ids)]


@pytest.mark.parametrize("mode", ["ar", "dlm"])
def test_a_forced_end_of_thinking_has_the_alternatives_of_its_place(micro: Runtime, mode: str) -> None:
    thinking = {"max_thinking_tokens": 5, "end_think_token_id": 9, "block_length": 1 if mode == "ar" else 4}
    got = answer(micro, mode=mode, max_new_tokens=8, top_logprobs=20, **thinking)
    assert got.logprobs is not None
    assert got.top_logprobs is not None
    place = got.token_ids.index(9)
    named = dict(got.top_logprobs[place])
    assert place == 5
    assert named.get(9, got.logprobs[place]) == got.logprobs[place]
    assert max(named.values()) >= got.logprobs[place]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefill_slice", [512, 7])
def test_a_prompt_is_rated_by_the_causal_pass(
    micro: Runtime, exact: Float64Decoder, mode: str, prefill_slice: int
) -> None:
    micro.engine._prefill_slice = prefill_slice
    try:
        got = answer(micro, mode=mode, max_new_tokens=3, prompt_logprobs=2)
    finally:
        micro.engine._prefill_slice = 512
    rows = causal(exact, PROMPT)[:-1]
    assert got.prompt_token_ids == PROMPT
    assert got.prompt_logprobs == pytest.approx(
        rows.gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0].tolist(), abs=1e-4
    )
    assert got.prompt_top_logprobs is not None
    for top, row in zip(got.prompt_top_logprobs, rows, strict=True):
        same(top, without_mask(exact, row, 2))
    assert got.token_ids == answer(micro, mode=mode, max_new_tokens=3).token_ids


def test_a_prompt_in_the_prefix_cache_is_rated_as_a_whole(micro: Runtime) -> None:
    prompt = [*PROMPT, *range(3, 60)]  # several pages
    fields: dict[str, object] = {"mode": "ar", "prompt_ids": prompt, "max_new_tokens": 2}
    fresh = answer(micro, **fields, prompt_logprobs=0)
    assert answer(micro, **fields).cost.forwards_saved >= 0
    again = answer(micro, **fields, prompt_logprobs=0)
    assert again.prompt_logprobs == fresh.prompt_logprobs
    assert len(again.prompt_logprobs or ()) == len(prompt) - 1
    assert (again.cost.forwards_saved, again.prompt_top_logprobs) == (0, None)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_for_no_token_reads_its_prompt_and_ends(micro: Runtime, mode: str) -> None:
    got = answer(micro, mode=mode, max_new_tokens=0, prompt_logprobs=1, top_logprobs=2)
    assert (got.token_ids, got.logprobs, got.top_logprobs, got.finish_reason) == ([], [], [], "length")
    assert got.cost.forwards == {**dict.fromkeys(got.cost.forwards, 0), "prefill": 1}
    assert len(got.prompt_logprobs or ()) == len(PROMPT) - 1


def test_a_request_for_nothing_at_all_is_refused(micro: Runtime) -> None:
    with pytest.raises(GenerationError, match="max_new_tokens: got 0; valid: 1 to 2147483647, or 0 with"):
        micro.submit("r", {**ASK, "mode": "ar", "max_new_tokens": 0})


def test_the_rows_of_a_prompt_are_not_drawn_at_random(micro: Runtime) -> None:
    fields: dict[str, object] = {"mode": "ar", "max_new_tokens": 6, "temperature": 1.0, "seed": 3, "top_p": 0.9}
    plain, rated = answers(micro, fields, {**fields, "prompt_logprobs": 0})
    assert rated.token_ids == plain.token_ids
    greedy = answer(micro, mode="ar", max_new_tokens=1, prompt_logprobs=0)
    assert rated.prompt_logprobs == greedy.prompt_logprobs


def test_the_logits_of_a_long_prompt_exist_in_parts_only(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of 512 tokens of a vocabulary of 131,072 has 268 MB of float32 logits; 2,048 tokens have a gigabyte."""
    sampler, rows = micro.engine.runner.sampler, list[int]()
    head = sampler.head

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(hidden.shape[0])
        return head(hidden)

    monkeypatch.setattr(sampler, "head", counting)
    prompt = [3 + number % 60 for number in range(700)]
    got = answer(micro, mode="ar", prompt_ids=prompt, max_new_tokens=1, prompt_logprobs=0)
    assert len(got.prompt_logprobs or ()) == 699
    assert max(rows) <= 256


def test_a_step_launched_ahead_takes_the_last_row_of_a_rated_prompt(micro: Runtime) -> None:
    """Of a rated prompt every row is wanted; the token that follows is the last one's."""
    from trimode.tests.fakes.asynchronous import make_late
    from trimode.workers.params import parse_params

    expected = answers(micro, *({"mode": mode, "max_new_tokens": 8, "prompt_logprobs": 1} for mode in MODES))
    late = Engine(micro.engine.model, 400, 8)
    runner = make_late(late)
    sequences: list[Sequence] = []
    for mode in MODES:
        params = parse_params(
            {"mode": mode, "max_new_tokens": 8, "prompt_logprobs": 1, "ignore_eos": True, "logprobs": True}
        )
        sequences.append(late.add(mode, PROMPT, params))
        while late.busy:
            late.step()
    assert [sequence.state.tokens() for sequence in sequences] == [got.token_ids for got in expected]
    assert [sequence.state.prompt_logprobs for sequence in sequences] == [got.prompt_logprobs for got in expected]
    assert runner.num_ahead


def test_a_token_of_a_prompt_has_the_number_of_its_alternative_to_the_bit(micro: Runtime) -> None:
    """lm-evaluation-harness finds out by equality whether the model would have chosen the token."""
    got = answer(micro, mode="ar", max_new_tokens=1, prompt_logprobs=20)
    assert got.prompt_token_ids and got.prompt_logprobs and got.prompt_top_logprobs
    rated = zip(got.prompt_token_ids[1:], got.prompt_logprobs, got.prompt_top_logprobs, strict=True)
    pairs = [(value, dict(top)[token]) for token, value, top in rated if token in dict(top)]
    assert len(pairs) > 5
    assert [value for value, _ in pairs] == [other for _, other in pairs]


@pytest.mark.parametrize("more", [{"top_logprobs": 1}, {"prompt_logprobs": 0}])
def test_what_a_continuation_cannot_hold_begins_anew(micro: Runtime, more: dict[str, object]) -> None:
    for fields, goes_on in (({}, True), (more, False)):
        sequence = micro.submit("r", {**ASK, "mode": "ar", "max_new_tokens": 6, **fields})
        for _ in range(3):
            micro.engine.step()
        assert (sequence.state.boundary("digest") is not None) is goes_on
        while micro.engine.busy:
            micro.engine.step()
