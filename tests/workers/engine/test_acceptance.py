"""What drafts come to, as the engine and a request remember it."""

from __future__ import annotations

import dataclasses
import math
import random

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


def test_places_that_were_not_tested_follow_those_that_were() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.learn(RequestDrafts(), 4, 3, 4)
    acceptance.refresh()
    share = acceptance.chances[2] / PRIOR_FAILURES[2]
    assert share < 0.2
    assert acceptance.chances[2:] == pytest.approx([share * chance for chance in PRIOR_FAILURES[2:]])


def test_places_that_were_tested_have_their_own_chance() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    for number in range(400):  # every second draft fails at place 9, and none before
        acceptance.learn(drafts, 16, 8 if number % 2 else 15, 16)
    acceptance.refresh()
    assert max(acceptance.chances[:3]) < 0.02
    assert acceptance.chances[3] == pytest.approx(1 / 9, rel=0.3)  # of 16 places in two cycles, of which 9 are tested


def test_the_end_of_an_answer_is_no_failure_and_is_counted_apart() -> None:
    acceptance = Acceptance()
    for _ in range(400):  # answers of 50 tokens: the first is the prompt's, then 32, then 17
        drafts = RequestDrafts()
        acceptance.learn(drafts, 32, 31, 32)
        acceptance.learn(drafts, 32, 31, 17)
        assert drafts.all_failures == 0
    acceptance.refresh()
    assert acceptance.end_chance == pytest.approx(1 / 48, rel=0.05)
    assert max(acceptance.chances) < 0.01
    assert speeds_at(1.0, acceptance.chances, 5, acceptance.end_chance)[-1] == pytest.approx(24.5 / 2, rel=0.15)


def test_an_answer_that_ends_with_the_token_before_the_drafts_tests_none() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    for _ in range(20):
        acceptance.learn(drafts, 8, 3, 1)
    acceptance.refresh()
    assert dataclasses.replace(drafts, stretches=[]) == RequestDrafts()
    assert acceptance.chances == pytest.approx(PRIOR_FAILURES)


def test_chances_do_not_drift_apart_from_difficulties() -> None:
    acceptance, chance = Acceptance(), random.Random(0)
    for _ in range(300):
        drafts = RequestDrafts(typical=acceptance.typical)
        for _ in range(4):
            accepted = next((at for at in range(15) if chance.random() < 0.03), 15)
            acceptance.learn(drafts, 16, accepted, accepted + 1)
        acceptance.refresh()
    assert acceptance.typical == pytest.approx(1.0, abs=0.4)
    assert acceptance.chances[:4] == pytest.approx([0.03] * 4, rel=0.5)


def test_what_was_learned_counts_after_a_refresh() -> None:
    acceptance = Acceptance()
    for _ in range(50):
        acceptance.learn(RequestDrafts(), 32, 0, 1)
    assert acceptance.chances == list(PRIOR_FAILURES)
    acceptance.refresh()
    assert acceptance.chances[0] > 2 * PRIOR_FAILURES[0]


def ended_requests(acceptance: Acceptance, failures: list[int], expected: float) -> RequestDrafts:
    for number in failures:
        acceptance.ended(RequestDrafts(all_failures=number, all_expected=expected))
    return acceptance.new_request()


def test_where_requests_are_alike_one_failure_changes_less() -> None:
    alike = ended_requests(Acceptance(), [2, 1, 3, 2, 2, 1, 2, 3] * 10, 2.0)
    unlike = ended_requests(Acceptance(), [0, 0, 0, 8, 0, 8, 0, 0] * 10, 2.0)
    for drafts in (alike, unlike):
        drafts.add(failed=True, expected=0.1, accepted=1, emitted=2)
    assert unlike.difficulty > 1.5 > 1.2 > alike.difficulty


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


@pytest.mark.parametrize(("shape", "prior"), [(0.5, 2.0), (3.0, 3.0), (5.0, 5.0), (9.0, 9.0), (40.0, 12.0)])
@pytest.mark.parametrize("expected", [1.0, 4.0])
def test_the_prior_of_a_request_is_the_shape_of_the_spread_of_those_before(
    shape: float, prior: float, expected: float
) -> None:
    """With difficulties of this gamma shape, failures are so far from what is expected of an average request."""
    acceptance = Acceptance()
    assert acceptance.new_request().prior == 2.0
    deviation = math.sqrt(expected + expected**2 / shape)
    for number in range(600):
        failures = expected + (deviation if number % 2 else -deviation)
        acceptance.ended(RequestDrafts(all_failures=failures, all_expected=expected))
    assert acceptance.new_request().prior == pytest.approx(prior, rel=0.01)


def test_requests_that_differ_less_than_chance_would_have_it_count_as_alike() -> None:
    assert ended_requests(Acceptance(), [4] * 600, 4.0).prior == 12.0


def test_a_request_begins_with_the_difficulty_of_those_before() -> None:
    drafts = RequestDrafts(typical=2.5, prior=4.0)
    assert drafts.difficulty == drafts.settled == 2.5
    assert drafts.overall == 1.0


def test_the_whole_request_is_judged_by_all_its_cycles() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    for accepted in (0, 2, 6, 7):  # of 7 drafts
        acceptance.learn(drafts, 8, accepted, accepted + 1)
    expected = [sum(PRIOR_FAILURES[place.bit_length() - 1] for place in range(1, most + 1)) for most in (1, 3, 7, 7)]
    assert (drafts.all_failures, drafts.all_expected) == (3, pytest.approx(sum(expected)))
    assert drafts.overall == pytest.approx(4 / (1 + sum(expected)))
    assert drafts.settled == pytest.approx((3 + 2) / (2 + sum(expected)))


def test_an_answer_that_ends_at_its_last_accepted_draft_has_no_failure() -> None:
    acceptance, drafts = Acceptance(), RequestDrafts()
    acceptance.learn(drafts, 8, 5, 5)
    assert (drafts.all_failures, drafts.stretches) == (0, [5])
    acceptance.learn(drafts, 8, 5, 6)
    assert (drafts.all_failures, drafts.stretches) == (1, [5, 6])


def test_of_one_batch_of_cycles_the_later_ones_count_for_more() -> None:
    chances = []
    for order in (0, 7), (7, 0):
        acceptance = Acceptance()
        for accepted in order:
            for _ in range(300):
                acceptance.learn(RequestDrafts(), 8, accepted, accepted + 1)
        acceptance.refresh()
        chances.append(acceptance.chances[0])
    assert chances[0] < 0.8 * chances[1]


def test_tokens_are_forgotten_one_by_one_or_together() -> None:
    one, many = (RequestDrafts(fast_failures=4.0, fast_expected=2.0) for _ in range(2))
    many.forget(6)
    for _ in range(6):
        one.forget(1)
    assert (one.fast_failures, one.fast_expected) == pytest.approx((many.fast_failures, many.fast_expected))
    assert (many.fast_failures, many.fast_expected) == pytest.approx((2.4, 1.2))
