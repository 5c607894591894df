"""Greedy tokens and decisions as functions of tensors equal what the sampler gives for the same chunks."""

from __future__ import annotations

import math
from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.chunk import Chunk, Commit, Verify
from trimode.workers.sampling.greedy import Greedy, Rules, decide, greedy, is_greedy
from trimode.workers.sampling.plan import SampleRequest
from trimode.workers.sampling.sampler import Sampler

VOCAB, MASK, WIDEST = 12, 7, 8
PARAMS = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)


@st.composite
def chunks(draw: st.DrawFn) -> list[Chunk]:
    """Chunks with a commit, a verify or no decision."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, WIDEST))
        kind = draw(st.sampled_from(["commit", "verify", "none"]))
        rows = sorted(draw(st.sets(st.integers(0, length - 1), min_size=1)))
        selection: Commit | Verify | None = None
        if kind == "commit":
            selection = Commit(draw(st.sampled_from([0.0, 0.1, 0.3, math.inf])), draw(st.integers(1, 3)))
        elif kind == "verify":
            selection, rows = Verify(), list(range(length))
        ids = draw(st.lists(st.integers(0, 5), min_size=length, max_size=length))
        found.append(Chunk("verify", ids, 0, causal=True, keep_kv=True, rows=rows, purpose="test", selection=selection))
    return found


def rules_of(wanted: list[Chunk], *, more_tokens: int, more_rows: int) -> Rules:
    """What the chunks ask for, with padding behind them."""
    starts, flags = array("i", [0]), array("i")
    for chunk in wanted:
        flags.extend([int(row in chunk.rows) for row in range(len(chunk.token_ids))])
        starts.append(len(flags))
    commits = [chunk.selection if isinstance(chunk.selection, Commit) else Commit(9.0, 1) for chunk in wanted]
    return Rules(
        query_start_N1=torch.tensor([*starts, *[starts[-1]] * more_rows], dtype=torch.int32),
        wanted_T=torch.tensor([*flags, *[0] * more_tokens], dtype=torch.int32),
        thresholds_N=torch.tensor([rule.threshold for rule in commits] + [0.0] * more_rows),
        num_best_N=torch.tensor([rule.num_best for rule in commits] + [0] * more_rows),
        verify_N=torch.tensor([int(isinstance(c.selection, Verify)) for c in wanted] + [0] * more_rows).int(),
        max_queries=WIDEST,
    )


@settings(max_examples=60, deadline=None)
@given(chunks(), st.integers(0, 4), st.integers(0, 3), st.integers(0, 2**31))
def test_it_equals_the_sampler(wanted: list[Chunk], more_tokens: int, more_rows: int, seed: int) -> None:
    ids = torch.tensor([token for chunk in wanted for token in chunk.token_ids] + [0] * more_tokens)
    # Few values, so that there are ties.
    logits = torch.randint(-3, 4, (len(ids), VOCAB), generator=torch.Generator().manual_seed(seed)).float()
    logits[len(ids) - more_tokens :] = torch.nan
    found = greedy(logits.clone(), MASK)
    decisions = decide(found, ids, rules_of(wanted, more_tokens=more_tokens, more_rows=more_rows))
    starts = [sum(len(chunk.token_ids) for chunk in wanted[:n]) for n in range(len(wanted))]
    places = [start + row for start, chunk in zip(starts, wanted, strict=True) for row in chunk.rows]
    sampler = Sampler(lambda hidden: hidden.clone(), MASK)
    expected = sampler(logits[places], [SampleRequest(chunk, PARAMS) for chunk in wanted])
    for start, chunk, sampled in zip(starts, wanted, expected, strict=True):
        rows = [start + row for row in chunk.rows]
        assert found.tokens[rows].tolist() == sampled.tokens
        assert found.confidences[rows].tolist() == sampled.confidences
        assert found.logprobs[rows].tolist() == sampled.logprobs
        if isinstance(chunk.selection, Commit):
            assert [value > 0 for value in decisions[rows].tolist()] == sampled.committed
        elif isinstance(chunk.selection, Verify):
            assert decisions[rows].tolist() == [sampled.accepted] * len(rows)


def test_the_mask_token_is_never_chosen() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, MASK] = 9.0
    logits[1, 3] = 1.0
    found = greedy(logits, MASK)
    assert found.tokens[1] == 3
    assert MASK not in found.tokens.tolist()
    assert found.confidences[1] == pytest.approx(math.e / (math.e + 10 + math.exp(9)))  # of the raw logits


def test_a_row_that_is_not_finite_is_not_confident() -> None:
    found = greedy(torch.full((1, VOCAB), torch.nan), MASK)
    assert isinstance(found, Greedy)
    assert found.confidences.isnan().all()


@pytest.mark.parametrize(
    "change",
    [{"history": [1]}, {"forced_token": 3}, {"keep_distribution": True}, {"selection": Verify([object()])}],
    ids=lambda change: next(iter(change)),
)
def test_what_only_the_sampler_does(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "kind": "verify", "token_ids": [1], "position": 0, "causal": True, "keep_kv": True, "rows": [0],
        "purpose": "test",
    }  # fmt: skip
    assert is_greedy(Chunk(**fields))  # type: ignore[arg-type]
    assert not is_greedy(Chunk(**(fields | change)))  # type: ignore[arg-type]
