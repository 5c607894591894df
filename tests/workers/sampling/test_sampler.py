"""The sampler: exact in distribution, independent of batch-mates; commits, acceptance, tokens it refuses."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from trimode.core.protocol import DecodeParams
from trimode.kernels.draw import draw
from trimode.tests.workers.micro import load_cases
from trimode.workers.decode.chunk import Chunk, Commit, Confidence, Sampled, Verify
from trimode.workers.runtime import Runtime
from trimode.workers.sampling import plan
from trimode.workers.sampling.distributions import filtered_probs
from trimode.workers.sampling.plan import ROWS_PER_PASS, SampleRequest
from trimode.workers.sampling.randomness import uniform
from trimode.workers.sampling.sampler import Sampler

PROMPT = load_cases()[0].fields["prompt_ids"]
NUM_DRAWS = 5000


def first_tokens(
    runtime: Runtime, count: int, first_seed: int = 0, **fields: object
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Outputs of `count` seeds and all acceptance lengths."""
    runtime.engine.scheduler.max_num_seqs = 64
    sequences = [
        runtime.submit(
            str(seed),
            {"prompt_ids": PROMPT, "seed": seed, "max_new_tokens": 3, "temperature": 1.5, "ignore_eos": True, **fields},
        )
        for seed in range(first_seed, first_seed + count)
    ]
    while runtime.engine.busy:
        runtime.engine.step()
    runtime.engine.scheduler.max_num_seqs = 8
    return [tuple(s.state.tokens()) for s in sequences], [a for s in sequences for a in s.state.acceptance_lengths]


def same_distribution(a: list[int], b: list[int]) -> float:
    """p-value of a chi-square test of homogeneity; rare tokens are pooled."""
    counts_a, counts_b = Counter(a), Counter(b)
    frequent = [token for token in counts_a | counts_b if counts_a[token] + counts_b[token] >= 20]
    rows = [[c[token] for token in frequent] for c in (counts_a, counts_b)]
    for row, whole in zip(rows, (a, b), strict=True):
        row.append(len(whole) - sum(row))
    table = np.array(rows)
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)


@pytest.fixture(scope="module")
def ar_draws(micro: Runtime) -> list[tuple[int, ...]]:
    return first_tokens(micro, NUM_DRAWS, mode="ar")[0]


@pytest.mark.slow
@pytest.mark.parametrize("acceptance", ["rejection", "equality"])
def test_linear_spec_samples_from_the_ar_distribution(
    micro: Runtime, ar_draws: list[tuple[int, ...]], acceptance: str
) -> None:
    # Other seeds than ar's: the two samples must be independent for the test to be valid.
    fields = {"mode": "linear_spec", "block_length": 4, "acceptance": acceptance}
    drawn, _ = first_tokens(micro, NUM_DRAWS, first_seed=NUM_DRAWS, **fields)  # type: ignore[arg-type]
    for position in (1, 2):
        p = same_distribution([t[position] for t in ar_draws], [t[position] for t in drawn])
        assert p > 1e-4, f"position {position}: p = {p}"


def test_rejection_accepts_more_than_equality(micro: Runtime) -> None:
    fields = {"mode": "linear_spec", "block_length": 8, "max_new_tokens": 24}
    _, by_rejection = first_tokens(micro, 150, **fields, acceptance="rejection")  # type: ignore[arg-type]
    _, by_equality = first_tokens(micro, 150, **fields, acceptance="equality")  # type: ignore[arg-type]
    assert np.mean(by_rejection) > np.mean(by_equality)


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_seed_gives_the_same_text_whatever_its_batch_mates(micro: Runtime, mode: str) -> None:
    alone = [first_tokens_of_seed(micro, mode, seed) for seed in range(4)]
    together, _ = first_tokens(micro, 4, mode=mode, max_new_tokens=20)
    assert together == alone


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_requests_of_one_seed_draw_other_numbers_for_other_prompts(
    micro: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """All tokens are equally likely, so the texts show the random numbers and nothing else."""
    monkeypatch.setattr(micro.engine.runner.sampler, "head", lambda hidden: torch.zeros(len(hidden), 128))
    texts = []
    for prompt in ([5, 6, 7], [5, 6, 8], [5, 6, 7]):
        fields = {"prompt_ids": prompt, "mode": mode, "max_new_tokens": 12, "temperature": 1.0, "ignore_eos": True}
        sequence = micro.submit("flat", {**fields, "seed": 3})
        while micro.engine.busy:
            micro.engine.step()
        texts.append(sequence.state.tokens())
    assert texts[0] == texts[2]
    assert sum(a == b for a, b in zip(texts[0], texts[1], strict=True)) <= 3


def first_tokens_of_seed(runtime: Runtime, mode: str, seed: int) -> tuple[int, ...]:
    fields = {"prompt_ids": PROMPT, "mode": mode, "seed": seed, "max_new_tokens": 20, "temperature": 1.5}
    fields |= {"ignore_eos": True}
    sequence = runtime.submit("alone", fields)
    while runtime.engine.busy:
        runtime.engine.step()
    return tuple(sequence.state.tokens())


@pytest.mark.slow
def test_speculative_sampling_is_exact_on_known_distributions() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0]])
    q = torch.tensor([0.1, 0.6, 0.1, 0.2, 0.0])
    counts = Counter[int]()
    sampler = Sampler(lambda hidden: p.log().expand(len(hidden), -1).clone(), mask_token_id=4)
    for seed in range(NUM_DRAWS):
        draft = int(draw(q.unsqueeze(0), torch.tensor([uniform(seed, 1, "draft0")], dtype=torch.double)))
        rule = Verify([q])
        chunk = Chunk("verify", [0, draft], 0, True, True, (0, 1), "verify", selection=rule, sample_offset=1)
        params = DecodeParams(
            mode="linear_spec", max_new_tokens=2, block_length=2, threshold=0.0, temperature=1.0, seed=seed
        )
        counts[sampler(torch.zeros(2, 1), [SampleRequest(chunk, params)])[0].tokens[0]] += 1
    observed = [counts[token] for token in range(4)]
    expected = p[0, :4].double() / p[0, :4].double().sum() * NUM_DRAWS
    assert stats.chisquare(observed, expected.numpy()).pvalue > 1e-4


def test_a_draft_rejected_by_rounding_is_replaced_by_a_token_of_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """p is nowhere above q, so nothing is left of p - q. The last id is the mask, which nobody may sample."""
    monkeypatch.setattr(plan, "uniform", lambda _seed, _position, _purpose: 1 - 2**-53)
    logits = LOGITS.index_fill(0, torch.tensor([4]), float("-inf")).unsqueeze(0)
    q = filtered_probs(logits, torch.ones(1))[0] * 1.001
    got = sample(verified(7, 0, proposals=[q]), temperature=1.0)
    assert got.tokens == [3, 3]
    assert got.accepted == 1


def test_repetition_penalty_agrees_between_ar_and_linear_spec(micro: Runtime) -> None:
    outputs = []
    for mode in ("ar", "linear_spec"):
        fields = {"prompt_ids": PROMPT, "mode": mode, "max_new_tokens": 40, "repetition_penalty": 1.3}
        sequence = micro.submit(mode, fields)
        while micro.engine.busy:
            micro.engine.step()
        outputs.append(sequence.state.tokens())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.3, "seed": 5}])
@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
def test_repetition_penalty_agrees_between_ar_and_dlm_with_a_block_of_one(
    micro: Runtime, penalty: float, fields: dict[str, object]
) -> None:
    outputs = []
    for changes in ({"mode": "ar"}, {"mode": "dlm", "block_length": 1}):
        request = {"prompt_ids": PROMPT, "max_new_tokens": 40, "repetition_penalty": penalty, "ignore_eos": True}
        sequence = micro.submit("penalty", {**request, **changes, **fields})
        while micro.engine.busy:
            micro.engine.step()
        outputs.append(sequence.state.tokens())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_the_mask_is_never_sampled(
    micro: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str, temperature: float
) -> None:
    mask, head = micro.engine.model.config.mask_token_id, micro.engine.model.head

    def prefers_masks(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        logits[:, mask] += 50
        return logits

    monkeypatch.setattr(micro.engine.runner.sampler, "head", prefers_masks)
    fields = {"prompt_ids": PROMPT, "mode": mode, "max_new_tokens": 20, "temperature": temperature}
    sequence = micro.submit("masks", {**fields, "ignore_eos": True})
    while micro.engine.busy:
        micro.engine.step()
    assert sequence.error is None
    assert len(sequence.state.tokens()) == 20
    assert mask not in sequence.state.tokens()


LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01]).log()
"""Logits of every row below. Token 4 is the mask."""


def sample(chunk: Chunk, logits: torch.Tensor = LOGITS, **fields: object) -> Sampled:
    """Samples one chunk whose rows all have these logits, greedy unless `fields` say more."""
    sampler = Sampler(lambda hidden: logits.expand(len(hidden), -1).clone(), mask_token_id=4)
    base: dict[str, object] = {"mode": "ar", "max_new_tokens": 1, "block_length": 1, "threshold": None}
    params = DecodeParams(**base | fields)  # type: ignore[arg-type]
    return sampler(torch.zeros(len(chunk.rows), 1), [SampleRequest(chunk, params)])[0]


def block(count: int, **fields: object) -> Chunk:
    """A chunk of `count` tokens whose rows are all wanted."""
    return Chunk("decode", [0] * count, 0, True, True, range(count), "decode", **fields)  # type: ignore[arg-type]


def verified(*tokens: int, proposals: list[object] | None = None, **fields: object) -> Chunk:
    """A seed and its drafts, to be verified."""
    return dataclasses.replace(block(len(tokens), selection=Verify(proposals), **fields), token_ids=tokens)


def test_a_greedy_row_gives_the_best_token_and_its_raw_probability() -> None:
    got = sample(block(1))
    assert got.tokens == [0]
    assert got.confidences == pytest.approx([0.5])
    assert got.logprobs == pytest.approx([LOGITS[0].item()])


def test_the_mask_counts_in_the_probabilities_and_is_not_taken() -> None:
    got = sample(block(1), torch.tensor([0.1, 0.2, 0.0, 0.0, 0.7]).log())
    assert got.tokens == [1]
    assert got.confidences == pytest.approx([0.2])


def test_a_penalty_changes_the_token_and_not_its_logprob() -> None:
    got = sample(block(1, history=[0]), repetition_penalty=2.0)  # log 0.5 * 2 = log 0.25 < log 0.3
    assert got.tokens == [1]
    assert got.logprobs == pytest.approx([LOGITS[1].item()])


def test_a_verified_row_is_penalised_for_the_drafts_before_it() -> None:
    got = sample(verified(9, 0, 1, history=[2]), repetition_penalty=2.0)
    assert got.tokens == [0, 1, 0]  # the second row has seen 0; the third has seen 0 and 1


def test_a_tempered_confidence_is_that_of_the_distribution_it_was_drawn_from() -> None:
    drawn = {
        kind: sample(block(1, confidence=kind), temperature=0.5, top_k=2)
        for kind in (Confidence.RAW, Confidence.TEMPERED)
    }
    token = drawn[Confidence.RAW].tokens[0]
    assert drawn[Confidence.TEMPERED].tokens == [token]
    assert drawn[Confidence.RAW].confidences == pytest.approx([[0.5, 0.3][token]])
    assert drawn[Confidence.TEMPERED].confidences == pytest.approx([[0.25 / 0.34, 0.09 / 0.34][token]])


def test_distributions_are_kept_only_where_asked_for() -> None:
    assert sample(block(2), temperature=1.0).distributions == []
    kept = sample(block(2, keep_distribution=True), temperature=1.0).distributions
    assert [handle.shape for handle in kept if isinstance(handle, torch.Tensor)] == [(5,), (5,)]


@pytest.mark.parametrize(
    ("threshold", "num_best", "committed"),
    [(0.4, 1, [True, True, True]), (0.6, 1, [True, False, False]), (0.6, 2, [True, True, False])],
)
def test_a_commit_takes_the_confident_rows_and_at_least_the_best(
    threshold: float, num_best: int, committed: list[bool]
) -> None:
    assert sample(block(3, selection=Commit(threshold, num_best))).committed == committed


@pytest.mark.parametrize(("drafts", "accepted"), [([0, 0], 3), ([0, 1], 2), ([1, 0], 1)])
def test_a_verify_accepts_up_to_the_first_draft_that_differs(drafts: list[int], accepted: int) -> None:
    assert sample(verified(7, *drafts)).accepted == accepted


def test_chunks_without_wanted_rows_get_empty_results() -> None:
    chunk = Chunk("prefill", [1, 2], 0, True, True, (), "decode")
    assert sample(chunk) == Sampled([], [], [])


def test_rows_beyond_one_pass_are_sampled_too() -> None:
    got = sample(block(ROWS_PER_PASS + 3))
    assert got.tokens == [0] * (ROWS_PER_PASS + 3)


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0}, {"repetition_penalty": 2.0}])
def test_a_forced_token_has_its_own_raw_logprob_in_every_row(fields: dict[str, object]) -> None:
    got = sample(block(2, forced_token=3, history=[3]), **fields)
    assert got.forced_logprobs == pytest.approx([LOGITS[3].item()] * 2)
    assert sample(block(2), **fields).forced_logprobs == []


@pytest.mark.parametrize("name", ["0-ar_think", "0-dlm_think"])
def test_a_forced_end_of_thinking_has_the_logprob_that_the_causal_pass_gives_it(micro: Runtime, name: str) -> None:
    case = next(case for case in load_cases() if case.name == name)
    sequence = micro.submit(name, case.fields | {"logprobs": True})
    while micro.engine.busy:
        micro.engine.step()
    tokens, end = sequence.state.tokens(), case.fields["end_think_token_id"]
    assert tokens == case.tokens
    assert isinstance(end, int)
    place = tokens.index(end)
    # Forced to the same token again, after the same text as its prompt.
    prompt = [*PROMPT, *tokens[:place]]
    again = {"prompt_ids": prompt, "mode": "ar", "max_new_tokens": 1, "max_thinking_tokens": 0, "logprobs": True}
    other = micro.submit("again", again | {"end_think_token_id": end})
    while micro.engine.busy:
        micro.engine.step()
    assert other.state.tokens() == [end]
    assert sequence.state.logprobs[place] == pytest.approx(other.state.logprobs[0], abs=1e-4)
    assert sequence.state.logprobs[place] < -1e-3


def test_logits_that_are_not_finite_give_a_nan_confidence() -> None:
    got = sample(block(1), torch.full((5,), float("nan")))
    assert np.isnan(got.confidences).all()
