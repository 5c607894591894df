"""Statistics of a run against sums done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trimode.core.files import write_json_atomic
from trimode.pipeline.analysis.runs import read_run
from trimode.pipeline.analysis.statistics import score_interval
from trimode.pipeline.analysis.summary import JSON_FIELDS, ReportRow, disagreement, seed_accuracies, summarize_task
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.run_folders import FakeRun, make_record, make_row, write_run


def summary_of(root: Path, fake: FakeRun) -> ReportRow:
    run = read_run(write_run(root, fake))
    return summarize_task(run, run.tasks[fake.benchmarks[0]])


def test_statistics_are_ratios_of_sums(tmp_path: Path) -> None:
    fake = FakeRun(mode="linear_spec", lora=True, samples=30)
    rows = [make_row(fake, "demo-math", i, 0) for i in range(30)]
    records = [make_record(fake, "demo-math", i, 0, row) for i, row in enumerate(rows)]
    tokens, nfe = sum(r.cost.completion_tokens for r in records), sum(r.cost.nfe for r in records)
    accepted = [n for r in records for n in r.cost.acceptance_lengths]
    found = summary_of(tmp_path, fake)
    assert found.num_entries == 30
    assert found.accuracy == pytest.approx(100 * sum(bool(row["symbolic_correct"]) for row in rows) / 30, abs=1e-3)
    assert found.avg_tokens == pytest.approx(tokens / 30, abs=1e-3)
    assert found.average_nfe == pytest.approx(nfe / 30, abs=1e-3)
    assert found.tpf == pytest.approx(tokens / nfe, abs=1e-3)
    assert found.tpf_total == pytest.approx(tokens / sum(sum(r.cost.forwards.values()) for r in records), abs=1e-3)
    assert found.acceptance_length == pytest.approx(sum(accepted) / len(accepted), abs=1e-3)


def test_intervals_hold_their_values(tmp_path: Path) -> None:
    found = summary_of(tmp_path, FakeRun(mode="dlm", samples=40))
    assert found.accuracy is not None
    assert found.tpf is not None
    assert found.tpf_interval is not None
    assert found.tpf_interval.low <= found.tpf <= found.tpf_interval.high
    right = round(found.accuracy * 40 / 100)
    bounds = score_interval(np.array([1.0] * right + [0.0] * (40 - right)), np.ones(40))
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx((100 * bounds.low, 100 * bounds.high), abs=1e-3)


@pytest.mark.parametrize("mode", ["ar", "dlm"])
def test_acceptance_length_is_null_where_nothing_is_verified(tmp_path: Path, mode: str) -> None:
    assert summary_of(tmp_path, FakeRun(mode=mode)).acceptance_length is None


def test_seeds_give_a_standard_error(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, FakeRun(samples=25, seeds=4, accuracy=0.6)))
    found = summarize_task(run, run.tasks["demo-math"])
    per_seed = seed_accuracies(run.tasks["demo-math"])
    assert (found.seeds, found.num_entries, found.done) == (4, 25, 100)
    assert found.std_err is not None
    assert found.accuracy == pytest.approx(sum(per_seed) / 4, abs=1e-3)


def test_an_unfinished_run_is_summed_from_its_rows(tmp_path: Path) -> None:
    found = summary_of(tmp_path, FakeRun(samples=10, finished=False))
    assert not found.finished
    assert (found.done, found.total) == (5, 10)
    assert found.accuracy is not None


def test_accuracy_is_what_metrics_json_states(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=10)))
    write_json_atomic(paths.metrics("demo-math"), {"demo-math": {"pass@1": {"symbolic_correct": 12.5}}})
    run = read_run(paths.run_dir)
    task = run.tasks["demo-math"]
    assert summarize_task(run, task).accuracy == 12.5
    assert "12.50" in disagreement(task)[0]


@pytest.mark.parametrize("benchmark", ["demo-math", "demo-long", "demo-mcq", "demo-code", "demo-if"])
def test_rows_and_metrics_agree_for_every_scorer(tmp_path: Path, benchmark: str) -> None:
    run = read_run(write_run(tmp_path, FakeRun(benchmarks=(benchmark,), samples=30)))
    assert disagreement(run.tasks[benchmark]) == []


def test_the_interval_of_a_perfect_score_stays_on_the_scale(tmp_path: Path) -> None:
    found = summary_of(tmp_path, FakeRun(samples=10, accuracy=2.0, seeds=3))
    assert found.accuracy == found.accuracy_high == 100.0
    assert found.accuracy_low is not None
    assert 0.0 < found.accuracy_low < 100.0


def test_samples_without_an_answer_and_failures_of_the_scorer_are_counted(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=6)))
    edit_rows(paths, {1: {"scoring_error": "timed out"}, 2: {"scoring_error": ""}})
    lines = [json.loads(line) for line in paths.nfe_log(0).read_text().splitlines()]
    lines[3] |= {"finish_reason": "error", "error": "HTTP 400"}
    paths.nfe_log(0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(paths.run_dir)
    found = summarize_task(run, run.tasks["demo-math"])
    assert (found.failed, found.unscored) == (1, 2)
    assert (found.to_json()["failed"], found.to_json()["unscored"]) == (1, 2)
    assert any("the scorer failed on 2 answers" in note for note in run.notes)


def test_a_failed_sample_is_counted_when_its_ledger_line_is_lost(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=6)))
    edit_rows(paths, {4: {"error": "the worker died", "error_kind": "infrastructure"}})
    paths.nfe_log(0).write_text("".join(paths.nfe_log(0).read_text().splitlines(keepends=True)[:4]))
    run = read_run(paths.run_dir)
    assert summarize_task(run, run.tasks["demo-math"]).failed == 1


def edit_rows(paths: RunPaths, changes: dict[int, dict[str, object]]) -> None:
    """Adds fields to rows of demo-math by position."""
    output = paths.output("demo-math", 0)
    rows = [json.loads(line) | changes.get(i, {}) for i, line in enumerate(output.read_text().splitlines())]
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_json_has_the_agreed_fields_only(tmp_path: Path) -> None:
    assert tuple(summary_of(tmp_path, FakeRun()).to_json()) == JSON_FIELDS


@pytest.mark.parametrize(("value", "counted"), [(6.0, 6), ("6", 0), (None, 0), (float("nan"), 0), (-6, 0), ([6], 0)])
def test_a_damaged_token_count_counts_as_none(tmp_path: Path, value: object, counted: float) -> None:
    folder = write_run(tmp_path, FakeRun(samples=1))
    output = RunPaths(folder).output("demo-math", 0)
    write_row = json.loads(output.read_text()) | {"num_generated_tokens": value}
    output.write_text(json.dumps(write_row) + "\n")
    run = read_run(folder)
    assert summarize_task(run, run.tasks["demo-math"]).avg_tokens == counted
    assert any("damaged num_generated_tokens" in note for note in run.notes) is (counted == 0)


@pytest.mark.parametrize("value", [float("nan"), "x", [1]])
def test_a_damaged_metric_is_a_remark_and_computed_from_the_rows(tmp_path: Path, value: object) -> None:
    folder = write_run(tmp_path, FakeRun(samples=4))
    path = RunPaths(folder).metrics("demo-math")
    metrics = json.loads(path.read_text())
    metrics["demo-math"]["pass@1"]["symbolic_correct"] = value
    path.write_text(json.dumps(metrics))
    task = read_run(folder).tasks["demo-math"]
    assert "computed from the rows" in disagreement(task)[0]
