"""The plan of a step's sampling: what it holds of each kind of row, and any number of rows per pass."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.chunk import Chunk, Commit, Confidence, Sampled, Verify
from trimode.workers.sampling import plan
from trimode.workers.sampling.plan import SampleRequest, plan_sampling
from trimode.workers.sampling.sampler import Sampler

VOCAB, MASK = 40, 39
GREEDY = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)
TEMPERED = dataclasses.replace(GREEDY, temperature=0.9, top_k=12, top_p=0.95, min_p=0.01, seed=3)


def chunk(count: int, **fields: object) -> Chunk:
    return Chunk("decode", list(range(count)), 5, True, True, range(count), "decode", **fields)  # type: ignore[arg-type]


def distribution(seed: int) -> torch.Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)).softmax(dim=0)


def any_request(chance: random.Random, number: int) -> SampleRequest:
    """A request of any kind: greedy or sampled, with or without each of the options that take arrays."""
    params = dataclasses.replace(
        chance.choice([GREEDY, TEMPERED, dataclasses.replace(GREEDY, temperature=1.3)]),
        seed=number, repetition_penalty=chance.choice([1.0, 1.5]),
    )  # fmt: skip
    count = chance.randrange(6)
    rules: list[Commit | Verify | None] = [None, Commit(chance.choice([0.0, 0.1, 1.0]), 2)]
    rules += [Verify()] if count else []
    if params.temperature and count:
        rules.append(Verify([distribution(number * 10 + draft) for draft in range(count - 1)]))
    wanted = chunk(
        count,
        selection=chance.choice(rules),
        history=None if params.repetition_penalty == 1.0 else chance.sample(range(VOCAB), 5),
        forced_token=chance.choice([None, 7]),
        keep_distribution=chance.random() < 0.3,
        confidence=chance.choice(list(Confidence)),
    )
    return SampleRequest(wanted, params)


def sample(requests: list[SampleRequest]) -> list[Sampled]:
    """Samples the requests; a row's logits depend on its request and its index only."""
    codes = [100 * r.params.seed + index for r in requests for index in range(len(r.chunk.rows))]

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.arange(VOCAB).mul(0.7) + hidden
        return logits.sin().mul(3)

    return Sampler(head, MASK)(torch.tensor(codes, dtype=torch.float).unsqueeze(1), requests)


def comparable(results: list[Sampled]) -> list[object]:
    return [
        [torch.stack(value).tolist() if name == "distributions" and value else value for name, value in each.items()]
        for each in (dataclasses.asdict(result) for result in results)
    ]


@pytest.mark.parametrize("seed", range(15))
def test_rows_are_sampled_alike_alone_together_and_in_passes_of_any_size(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    requests = [any_request(chance, number) for number in range(chance.randrange(1, 12))]
    alone = [sample([request])[0] for request in requests]
    for rows_per_pass in (256, 1, 3, 4, 7):
        monkeypatch.setattr(plan, "ROWS_PER_PASS", rows_per_pass)
        assert comparable(sample(requests)) == comparable(alone), rows_per_pass


def test_what_nobody_asks_for_takes_no_array() -> None:
    assert plan_sampling([SampleRequest(chunk(3), GREEDY)]).arrays == {}
    assert plan_sampling([SampleRequest(chunk(0), TEMPERED)]).passes == []


def test_a_row_that_is_drawn_brings_its_parameters() -> None:
    made = plan_sampling([SampleRequest(chunk(2), GREEDY), SampleRequest(chunk(1), TEMPERED)])
    arrays = {name: list(values) for name, values in made.arrays.items()}
    assert (arrays["sampled_row"], arrays["top_k"]) == ([2], [12])
    assert arrays["temperature"] == pytest.approx([0.9])
    assert made.passes[0].filtered
    assert not plan_sampling([SampleRequest(chunk(1), dataclasses.replace(GREEDY, temperature=1.0))]).passes[0].filtered
    assert 0 < arrays["number"][0] < 1


def test_a_penalty_names_each_past_token_once() -> None:
    params = dataclasses.replace(GREEDY, repetition_penalty=2.0)
    made = plan_sampling([SampleRequest(chunk(2, history=[4, 4, 3], selection=Verify()), params)])
    rows, tokens = list(made.arrays["penalty_row"]), list(made.arrays["penalty_token"])
    assert list(zip(rows, tokens, strict=True)) == [(0, 3), (0, 4), (1, 1), (1, 3), (1, 4)]


def test_the_sampler_reads_what_ran_only_to_verify_it() -> None:
    assert plan_sampling([SampleRequest(chunk(2, selection=Verify()), GREEDY)]).reads_inputs
    assert not plan_sampling([SampleRequest(chunk(2, selection=Commit(0.5, 1)), GREEDY)]).reads_inputs
