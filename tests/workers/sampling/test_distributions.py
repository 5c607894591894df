"""Sampling distributions: what the filters keep, the repetition penalty, and drawing by inverse CDF."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trimode.kernels.draw import draw
from trimode.kernels.draw.reference import residual
from trimode.workers.sampling.distributions import Filters, Penalties, apply_penalties, filtered_probs


def probabilities(logits: torch.Tensor, rows: list[dict[str, float]]) -> torch.Tensor:
    """`filtered_probs` of rows with these parameters, at temperature 1 and without filters unless they say more."""

    def column(name: str, default: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor([row.get(name, default) for row in rows], dtype=dtype)

    filters = Filters(column("top_k", 0, torch.int64), column("top_p", 1.0), column("min_p", 0.0))
    return filtered_probs(
        logits, column("temperature", 1.0), filters if any(set(row) - {"temperature"} for row in rows) else None
    )


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
def test_filters_keep_what_they_name(fields: dict[str, float], kept: set[int]) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    probs = probabilities(logits, [fields])[0]
    assert set(probs.nonzero().flatten().tolist()) == kept
    assert probs.sum().item() == pytest.approx(1.0)


def test_a_row_is_divided_by_its_own_temperature() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]] * 2).log()
    probs = probabilities(logits, [{"temperature": 0.5}, {"temperature": 1.0}])
    assert probs[0].tolist() == pytest.approx([0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38])
    assert probs[1].tolist() == pytest.approx([0.5, 0.3, 0.2])


def test_a_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    logits = torch.tensor([[2.0, -1.0, 4.0], [2.0, -1.0, 4.0]])
    rows, tokens = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    apply_penalties(logits, Penalties(rows, tokens, torch.zeros(3), torch.tensor([2.0, 2.0, 0.5]), torch.zeros(3)))
    assert logits.tolist() == [[1.0, -2.0, 4.0], [2.0, -1.0, 8.0]]


@pytest.mark.parametrize(("number", "index"), [(1e-9, 1), (0.24, 1), (0.26, 3), (1 - 1e-9, 3)])
def test_a_draw_is_the_index_whose_share_holds_the_number(number: float, index: int) -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]])
    assert draw(weights, torch.tensor([number], dtype=torch.double)).tolist() == [index]


@pytest.mark.parametrize("threads", [1, 2])
def test_probabilities_of_a_row_do_not_depend_on_the_others(threads: int) -> None:
    filters: list[dict[str, float]] = [{}, {"top_p": 0.9}, {}, {"min_p": 0.01}, {"top_k": 40}, {}]
    kinds = [{"temperature": 0.8, **fields} for fields in filters * 4]
    logits = torch.randn(len(kinds), 131072, generator=torch.Generator().manual_seed(0)) * 0.7  # flat: much is kept
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = probabilities(logits, kinds)
        for row, kind in enumerate(kinds):
            assert torch.equal(probabilities(logits[row : row + 1], [kind])[0], together[row])
    finally:
        torch.set_num_threads(before)
    assert together.sum(dim=-1).tolist() == pytest.approx([1.0] * len(kinds), abs=1e-4)


WEIGHTS = st.lists(
    st.sampled_from([0.0, 0.0, 5e-324, 1e-310, 1e-45, 1e-30, 1e-7, 0.1, 0.3, 1.0, 3.0]), min_size=1, max_size=9
).filter(any)
NUMBERS = st.floats(2**-53, 1 - 2**-53)


@settings(max_examples=300, deadline=None)
@given(WEIGHTS, NUMBERS)
def test_an_index_of_weight_zero_is_never_drawn(weights: list[float], number: float) -> None:
    table = torch.tensor([weights], dtype=torch.double)
    (index,) = draw(table, torch.tensor([number], dtype=torch.double)).tolist()
    assert weights[index] > 0


@settings(max_examples=300, deadline=None)
@given(WEIGHTS, st.lists(st.floats(-1e-7, 1e-7), min_size=9, max_size=9), NUMBERS)
def test_the_replacement_of_a_rejected_draft_is_a_token_the_verifier_may_sample(
    weights: list[float], errors: list[float], number: float
) -> None:
    """q is p up to rounding, in whatever direction."""
    p = torch.tensor([weights])
    q = p * (1 + torch.tensor([errors[: len(weights)]]))
    for proposal in (q, p, torch.maximum(p, q), p * 1.0001):
        if p.sum() > 0:
            (index,) = draw(residual(p, proposal), torch.tensor([number], dtype=torch.double)).tolist()
            assert p[0, index] > 0


def test_a_residual_is_what_p_has_above_q() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.5, 0.0]]), torch.tensor([[0.2, 0.6, 0.2], [0.5, 0.5, 0.0]])
    assert residual(p, q).tolist() == [pytest.approx([0.3, 0.0, 0.0]), [0.5, 0.5, 0.0]]


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-38, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([[3.0, 90.0, -5.0], [-70.0, -9.0, -80.0]])
    assert probabilities(logits, [{"temperature": temperature}] * 2).tolist() == [[0.0, 1.0, 0.0]] * 2
