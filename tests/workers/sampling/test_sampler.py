"""Sampling at temperature > 0: exact in distribution, the same in any company; rejection accepts more than equality."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from trimode.core.protocol import DecodeParams
from trimode.tests.workers.micro import load_cases
from trimode.workers.decode.chunk import Chunk, Verify
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.distributions import draw, filtered_probs
from trimode.workers.sampling.randomness import uniform
from trimode.workers.sampling.sampler import Sampler, SampleRequest

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
def test_a_seed_gives_the_same_text_in_any_company(micro: Runtime, mode: str) -> None:
    alone = [first_tokens_of_seed(micro, mode, seed) for seed in range(4)]
    together, _ = first_tokens(micro, 4, mode=mode, max_new_tokens=20)
    assert together == alone


def first_tokens_of_seed(runtime: Runtime, mode: str, seed: int) -> tuple[int, ...]:
    fields = {"prompt_ids": PROMPT, "mode": mode, "seed": seed, "max_new_tokens": 20, "temperature": 1.5}
    fields |= {"ignore_eos": True}
    sequence = runtime.submit("alone", fields)
    while runtime.engine.busy:
        runtime.engine.step()
    return tuple(sequence.state.tokens())


def test_speculative_sampling_is_exact_on_known_distributions() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0]])
    q = torch.tensor([0.1, 0.6, 0.1, 0.2, 0.0])
    counts = Counter[int]()
    sampler = Sampler(lambda hidden: p.log().expand(len(hidden), -1).clone(), mask_token_id=4)
    for seed in range(NUM_DRAWS):
        draft = int(draw(q.unsqueeze(0), torch.tensor([uniform(seed, 1, "draft0")], dtype=torch.double)))
        rule = Verify([0, draft], [q])
        chunk = Chunk("verify", [0, draft], 0, True, True, (0, 1), "verify", selection=rule, sample_offset=1)
        params = DecodeParams(
            mode="linear_spec", max_new_tokens=2, block_length=2, threshold=0.0, temperature=1.0, seed=seed
        )
        counts[sampler(torch.zeros(2, 1), [SampleRequest(chunk, params)])[0].tokens[0]] += 1
    observed = [counts[token] for token in range(4)]
    expected = p[0, :4].double() / p[0, :4].double().sum() * NUM_DRAWS
    assert stats.chisquare(observed, expected.numpy()).pvalue > 1e-4


def params(**fields: object) -> DecodeParams:
    base: dict[str, object] = {"mode": "ar", "max_new_tokens": 1, "block_length": 1, "threshold": None}
    return DecodeParams(**(base | {"temperature": 1.0} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),
        ({"min_p": 0.5}, {0, 1}),
        ({"top_p": 0.01}, {0}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_filters_keep_what_they_name(fields: dict[str, object], kept: set[int]) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    probs = filtered_probs(logits, [params(**fields)])[0]
    assert set(probs.nonzero().flatten().tolist()) == kept
    assert probs.sum().item() == pytest.approx(1.0)


def test_uniform_is_a_function_of_seed_position_and_purpose() -> None:
    numbers = {uniform(s, p, w) for s in range(5) for p in range(5) for w in ("draft0", "verify")}
    assert len(numbers) == 50
    assert uniform(3, 4, "decode") == uniform(3, 4, "decode")
    many = [uniform(seed, 7, "decode") for seed in range(20_000)]
    assert stats.kstest(many, "uniform").pvalue > 1e-4


def test_repetition_penalty_agrees_between_ar_and_linear_spec(micro: Runtime) -> None:
    outputs = []
    for mode in ("ar", "linear_spec"):
        fields = {"prompt_ids": PROMPT, "mode": mode, "max_new_tokens": 40, "repetition_penalty": 1.3}
        sequence = micro.submit(mode, fields)
        while micro.engine.busy:
            micro.engine.step()
        outputs.append(sequence.state.tokens())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_mask_is_never_an_answer(
    micro: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str, temperature: float
) -> None:
    mask, head = micro.engine.model.config.mask_token_id, micro.engine.model.head

    def in_love_with_masks(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        logits[:, mask] += 50
        return logits

    monkeypatch.setattr(micro.engine.runner.sampler, "head", in_love_with_masks)
    fields = {"prompt_ids": PROMPT, "mode": mode, "max_new_tokens": 20, "temperature": temperature}
    sequence = micro.submit("masks", {**fields, "ignore_eos": True})
    while micro.engine.busy:
        micro.engine.step()
    assert sequence.error is None
    assert len(sequence.state.tokens()) == 20
    assert mask not in sequence.state.tokens()


@pytest.mark.parametrize("threads", [1, 2])
def test_probabilities_of_a_row_do_not_depend_on_the_others(threads: int) -> None:
    filters: list[dict[str, float]] = [{}, {"top_p": 0.9}, {}, {"min_p": 0.01}, {"top_k": 40}, {}]
    kinds = [params(temperature=0.8, **fields) for fields in filters * 4]
    logits = torch.randn(len(kinds), 131072, generator=torch.Generator().manual_seed(0)) * 0.7  # flat: much is kept
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = filtered_probs(logits, kinds)
        for row, kind in enumerate(kinds):
            assert torch.equal(filtered_probs(logits[row : row + 1], [kind])[0], together[row])
    finally:
        torch.set_num_threads(before)
    assert together.sum(dim=-1).tolist() == pytest.approx([1.0] * len(kinds), abs=1e-4)
