"""What drafts come to, as the engine and a request remember it."""

from __future__ import annotations

import pytest
from trimode.workers.engine.acceptance import PRIOR_FAILURES, Acceptance, RequestDrafts, speeds_at


def test_speeds_are_those_of_a_geometric_survival() -> None:
    chance = 0.2
    expected = [sum((1 - chance) ** place for place in range(width)) / 2 for width in (4, 8, 16, 32, 64)]
    assert speeds_at(1.0, [chance] * 5, 6) == pytest.approx([1.0, *expected])


def test_difficulty_multiplies_the_chance_of_failure() -> None:
    assert speeds_at(2.0, [0.1] * 5, 5) == pytest.approx(speeds_at(1.0, [0.2] * 5, 5))


def test_hopeless_drafts_give_half_a_token_per_forward() -> None:
    assert speeds_at(1000.0, PRIOR_FAILURES, 5) == pytest.approx([1.0] + [0.5005] * 4, rel=1e-3)


def test_failures_make_a_request_difficult_and_success_easy() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    assert drafts.difficulty == 1.0
    acceptance.learn(drafts, 8, 0, 1)
    assert drafts.difficulty > 1.2
    for _ in range(8):
        acceptance.learn(drafts, 8, 7, 8)
    assert drafts.difficulty < 0.7


def test_a_cycle_without_a_failure_says_nothing_of_places_behind_it() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.learn(RequestDrafts(), 4, 3, 4)
    acceptance.refresh()
    assert acceptance.chances[0] < PRIOR_FAILURES[0] / 2
    assert acceptance.chances[2:] == pytest.approx(PRIOR_FAILURES[2:], rel=0.01)


def test_what_was_learned_counts_after_a_refresh() -> None:
    acceptance = Acceptance()
    for _ in range(50):
        acceptance.learn(RequestDrafts(), 32, 0, 1)
    assert acceptance.chances == list(PRIOR_FAILURES)
    acceptance.refresh()
    assert acceptance.chances[0] > 2 * PRIOR_FAILURES[0]


def test_an_accepted_draft_ends_a_streak() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    for accepted in (0, 0, 1, 0):
        acceptance.learn(drafts, 8, accepted, accepted + 1)
    assert drafts.failed_in_a_row == 1


def test_tokens_without_a_draft_let_the_last_failures_fade() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    for _ in range(4):
        acceptance.learn(drafts, 8, 0, 1)
    before = drafts.difficulty
    for _ in range(200):
        drafts.forget(1)
    assert 1.0 < drafts.difficulty < before
