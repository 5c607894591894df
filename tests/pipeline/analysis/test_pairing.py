"""Two runs problem by problem, on rows written by hand."""

from __future__ import annotations

import pytest
from trimode.pipeline.analysis.pairing import Pairing, common_prefix, pair, pool
from trimode.pipeline.analysis.runs import TaskResult
from trimode.pipeline.analysis.statistics import difference_interval
from trimode.pipeline.benchmarks import load_benchmark


def task(verdicts: str, seeds: int = 1, text: str = "so {right}", tokens: int = 5) -> TaskResult:
    """A gsm8k result from letters: r right, w wrong, - not answered; `seeds` rows per problem."""
    result = TaskResult(load_benchmark("gsm8k"))
    for number, letter in enumerate(verdicts):
        if letter != "-":
            right = letter == "r"
            result.rows[number // seeds, number % seeds] = {
                "generation": text.format(right=right),
                "num_generated_tokens": tokens,
                "predicted_answer": "7" if right else "8",
                "expected_answer": 7,
                "symbolic_correct": right,
            }
    return result


def paired(a: TaskResult, b: TaskResult) -> Pairing:
    found = pair(a, b)
    assert found is not None
    return found


def test_flips_and_difference() -> None:
    found = paired(task("rrrwwr"), task("rwwwrr"))
    assert found.mcnemar is not None
    assert (found.mcnemar.only_a, found.mcnemar.only_b) == (2, 1)
    assert found.difference == pytest.approx(100 / 6)
    assert found.interval == pytest.approx([100 * bound for bound in difference_interval(found.differences)])
    assert [(flip.sample_id, flip.winner, flip.answer_a, flip.answer_b) for flip in found.flips] == [
        (1, "a", "7", "8"),
        (2, "a", "7", "8"),
        (4, "b", "8", "7"),
    ]


def test_only_problems_that_both_answered_count() -> None:
    found = paired(task("rr-r"), task("rw r".replace(" ", "-")))
    assert (found.num_problems, found.num_only_a, found.num_only_b) == (3, 0, 0)
    found = paired(task("rrrr"), task("rr--"))
    assert (found.num_problems, found.num_only_a) == (2, 2)


def test_nothing_in_common_is_no_pairing() -> None:
    assert pair(task("rr"), task("--")) is None


def test_seeds_of_a_problem_are_averaged_before_pairing() -> None:
    found = paired(task("rwrr", seeds=2), task("rwww", seeds=2))
    assert found.num_problems == 2
    assert found.differences.tolist() == [0.0, 1.0]
    assert found.mcnemar is None


def test_identical_answers_and_where_others_part() -> None:
    found = paired(task("rrw", text="one two {right}"), task("rrr", text="one two {right}"))
    assert (found.num_identical, found.num_answers) == (2, 3)
    (divergence,) = found.divergences
    assert (divergence.sample_id, divergence.position) == (2, len("one two "))
    assert (divergence.text_a, divergence.text_b) == ("False", "True")


def test_the_same_text_in_another_number_of_tokens_is_not_identical() -> None:
    assert paired(task("r", tokens=5), task("r", tokens=6)).num_identical == 0


def test_a_server_that_does_not_count_the_end_token_wrote_the_same() -> None:
    other = task("rr", tokens=4)
    other.counts_end = False
    assert paired(task("rr"), other).num_identical == 2
    assert paired(other, task("rr")).num_identical == 2


def test_the_pool_weighs_problems_alike() -> None:
    total = pool([paired(task("rrrr"), task("rrrw")), paired(task("ww"), task("rr"))])
    assert total.num_problems == 6
    assert total.difference == pytest.approx(100 * (1 - 2) / 6)
    assert total.mcnemar is not None
    assert (total.mcnemar.only_a, total.mcnemar.only_b) == (1, 2)


def fail(result: TaskResult, *ids: int) -> TaskResult:
    """Takes the answers of these samples away, as a run folder records it."""
    for sample_id in ids:
        row = {"generation": "", "num_generated_tokens": 0, "error": "HTTP 400", "error_kind": "request"}
        result.rows[sample_id, 0] = row | {"predicted_answer": None, "symbolic_correct": False}
    return result


def test_samples_that_failed_on_both_sides_are_left_out_and_counted() -> None:
    found = paired(fail(task("rrrr"), 0, 1), fail(task("rrrr"), 0, 1))
    assert (found.failed_both, found.num_answers, found.num_identical) == (2, 2, 2)
    assert found.num_problems == 2
    assert found.accuracy_a == found.accuracy_b == 100.0
    assert (found.num_only_a, found.num_only_b) == (0, 0)


def test_a_sample_that_failed_on_one_side_is_wrong_there_and_has_no_text_to_compare() -> None:
    found = paired(fail(task("rrrr"), 0), task("rrrr"))
    assert (found.failed_both, found.failed_a, found.failed_b) == (0, 1, 0)
    assert (found.num_answers, found.num_identical) == (3, 3)
    assert found.divergences == ()
    assert found.difference == pytest.approx(-25.0)
    assert (found.lost_a, found.lost_b) == (pytest.approx(25.0), 0.0)


def test_sides_that_failed_everywhere_have_nothing_to_compare() -> None:
    assert pair(fail(task("rr"), 0, 1), fail(task("rr"), 0, 1)) is None


def test_the_pool_adds_failures_up() -> None:
    one, two = paired(fail(task("rr"), 0), task("rr")), paired(fail(task("rr"), 0), fail(task("rr"), 0))
    total = pool([one, two])
    assert (total.failed_both, total.failed_a, total.num_answers) == (1, 1, 2)
    assert total.lost_a == pytest.approx(100 / 3)


@pytest.mark.parametrize(("a", "b", "length"), [("", "", 0), ("ab", "ab", 2), ("ab", "abc", 2), ("xb", "ab", 0)])
def test_common_prefix(a: str, b: str, length: int) -> None:
    assert common_prefix(a, b) == length
