"""Rules that every mode keeps, whatever tokens and confidences the forwards give."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from trimode.tests.fakes.forward import CONTEXT, END_THINK, EOS, FakeModel, logprobs, new_state
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.state import DecodeState

TOKENS = st.lists(st.sampled_from([20, 21, 22, END_THINK, EOS]), min_size=1, max_size=7)
CONFIDENCES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7)
PROMPTS = st.lists(st.sampled_from([1, 20, EOS, END_THINK]), min_size=1, max_size=6)
FEW = settings(max_examples=150, deadline=None)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request and the model it meets."""

    mode: str
    prompt: list[int]
    prefill_slice: int
    max_new_tokens: int
    block_length: int
    threshold: float | None
    temperature: float
    max_thinking_tokens: int | None
    ignore_eos: bool
    lora: bool
    causal: list[int]
    drafts: list[int]
    confidences: list[float]
    repetition_penalty: float = 1.0

    def run(self) -> tuple[DecodeState, FakeModel]:
        state = new_state(
            self.mode,
            self.prompt,
            DecodeContext(CONTEXT.mask_token_id, CONTEXT.eos_token_ids, self.prefill_slice),
            max_new_tokens=self.max_new_tokens,
            block_length=1 if self.mode == "ar" else self.block_length,
            threshold=self.threshold,
            temperature=self.temperature,
            max_thinking_tokens=self.max_thinking_tokens,
            end_think_token_id=END_THINK,
            ignore_eos=self.ignore_eos,
            lora=self.lora,
            repetition_penalty=self.repetition_penalty,
            logprobs=True,
        )
        model = FakeModel(self.causal, self.drafts, self.confidences)
        model.run(state)
        return state, model


def cases(
    modes: tuple[str, ...] = ("ar", "dlm", "linear_spec"), budgets: st.SearchStrategy[int | None] | None = None
) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        mode=st.sampled_from(modes),
        prompt=PROMPTS,
        prefill_slice=st.integers(1, 7),
        max_new_tokens=st.integers(1, 20),
        block_length=st.integers(1, 6),
        threshold=st.sampled_from([None, 0.0, 0.5, 1.0]),
        temperature=st.sampled_from([0.0, 1.0]),
        max_thinking_tokens=st.none() | st.integers(0, 12) if budgets is None else budgets,
        ignore_eos=st.booleans(),
        lora=st.booleans(),
        causal=TOKENS,
        drafts=TOKENS,
        confidences=CONFIDENCES,
    )


@FEW
@given(cases())
def test_the_output_keeps_its_limit_and_ends_where_it_says(case: Case) -> None:
    state, _ = case.run()
    output = state.tokens()
    assert state.output == output
    assert len(state.logprobs) == len(output)
    assert 1 <= len(output) <= case.max_new_tokens
    assert CONTEXT.mask_token_id not in output
    if state.finish_reason == "stop":
        assert output[-1] == EOS
        assert not case.ignore_eos
    else:
        assert len(output) == case.max_new_tokens
    assert case.ignore_eos or EOS not in output[:-1]


@FEW
@given(cases())
def test_every_token_carries_its_own_logprob_a_forced_one_too(case: Case) -> None:
    state, _ = case.run()
    assert state.logprobs == logprobs(*state.output)


@FEW
@given(cases())
def test_every_chunk_is_counted_once_under_its_kind(case: Case) -> None:
    state, model = case.run()
    counted = {kind: count for kind, count in state.forwards.items() if count}
    assert counted == dict(Counter(chunk.kind for chunk in model.chunks))
    assert sum(state.forwards.values()) == len(model.chunks)


@FEW
@given(cases())
def test_kept_kv_is_that_of_the_prompt_and_the_output_without_a_gap(case: Case) -> None:
    """FakeModel also asserts that a chunk starts where the kept KV ends and that asking for it changes nothing."""
    state, model = case.run()
    text = case.prompt + state.output
    kept = model.kv[: state.cached]
    assert len(kept) == state.cached
    assert all(known == token for known, token in zip(kept, text, strict=False))
    assert max(chunk.position + len(chunk.token_ids) for chunk in model.chunks) <= state.max_kv_tokens


@FEW
@given(cases())
def test_kept_kv_is_causal_and_the_adapter_touches_drafts_only(case: Case) -> None:
    _, model = case.run()
    for chunk in model.chunks:
        assert chunk.keep_kv == chunk.causal == (chunk.kind not in ("denoise", "draft"))
        assert chunk.sample_offset == (1 if chunk.causal else 0)
        assert chunk.lora == (case.lora and chunk.kind == "draft")


@FEW
@given(cases())
def test_nfe_follows_from_the_trace_in_every_mode(case: Case) -> None:
    state, _ = case.run()
    nfe = state.nfe(state.forwards)
    trace = state.trace
    if case.mode == "ar":
        assert trace is None
        assert nfe == len(state.output)
        return
    assert trace is not None
    passes = [record for record in trace if isinstance(record, list)]
    if case.mode == "dlm":
        assert nfe == sum(len(commits) + 1 for commits in passes)
        assert all(sum(commits) < case.block_length and all(commits) for commits in passes)
    else:
        assert nfe == 1 + sum(drafts + 1 for drafts, _ in passes)
        raw = [accepted for _, accepted in passes]
        assert raw[:-1] == state.acceptance_lengths[:-1]
        assert all(1 <= got <= ran for got, ran in zip(state.acceptance_lengths, raw, strict=True))


@FEW
@given(cases(("linear_spec",)))
def test_acceptance_lengths_count_the_output_and_nothing_past_its_end(case: Case) -> None:
    state, _ = case.run()
    lengths = state.acceptance_lengths
    assert all(1 <= length <= case.block_length for length in lengths)
    assert 1 + sum(lengths) == len(state.output)


@FEW
@given(cases(("linear_spec",), st.none()))
def test_linear_spec_gives_what_ar_gives_whatever_the_drafts_are(case: Case) -> None:
    state, _ = case.run()
    ar, _ = replace(case, mode="ar").run()
    assert (state.tokens(), state.logprobs, state.finish_reason) == (ar.tokens(), ar.logprobs, ar.finish_reason)


@FEW
@given(cases(("dlm",)))
def test_dlm_with_a_block_of_one_gives_what_ar_gives(case: Case) -> None:
    state, _ = replace(case, block_length=1).run()
    ar, _ = replace(case, mode="ar").run()
    assert (state.tokens(), state.logprobs, state.finish_reason) == (ar.tokens(), ar.logprobs, ar.finish_reason)


@FEW
@given(cases())
def test_a_repetition_penalty_acts_on_every_known_token(case: Case) -> None:
    """The prompt, the output and what is committed of the current block. Behind the seed of a verified block the
    sampler itself adds the drafts before each row."""
    _, model = replace(case, repetition_penalty=1.1).run()
    for chunk in model.chunks:
        assert chunk.history is not None
        history = list(chunk.history)
        if chunk.kind == "prefill":
            assert history == case.prompt
            continue
        known = [token for token in chunk.token_ids if token != CONTEXT.mask_token_id]
        assert history[chunk.position :] == (known[:1] if chunk.kind == "verify" else known)


@FEW
@given(cases(budgets=st.integers(0, 12)))
def test_a_thinking_budget_is_kept_up_to_a_block(case: Case) -> None:
    state, _ = case.run()
    budget = case.max_thinking_tokens
    assert budget is not None
    slack = case.block_length if case.mode == "linear_spec" else 0
    if len(state.output) > budget + slack and state.finish_reason == "length":
        assert END_THINK in state.output[: budget + slack + 1]
