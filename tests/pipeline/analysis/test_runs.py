"""Reading run folders back: finished, unfinished, damaged, foreign."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.analysis.runs import find_run_folders, read_run, read_sweep
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def test_every_run_below_a_folder_is_found_in_the_order_of_modes(tmp_path: Path) -> None:
    runs, notes = read_sweep(demo_sweep(tmp_path, samples=4))
    assert [run.label for run in runs] == ["ar", "dlm", "linear_spec", "linear_spec+lora"]
    assert notes == []


def test_a_run_folder_itself_will_do(tmp_path: Path) -> None:
    folder = write_run(tmp_path, FakeRun())
    assert find_run_folders(folder) == [folder]


def test_two_names_of_one_folder_count_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path, FakeRun())
    assert len(read_sweep(tmp_path, folder)[0]) == 1


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_runs_is_the_users_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        read_sweep(tmp_path / name)


def test_a_finished_run_has_every_row_with_its_ledger(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, FakeRun(samples=7, seeds=2)))
    task = run.tasks["demo-math"]
    assert run.state == "completed"
    assert task.finished
    assert sorted(task.rows) == [(i, seed) for i in range(7) for seed in range(2)]
    assert task.records.keys() == task.rows.keys()
    assert "serialized_output" not in task.rows[0, 0]


def test_an_unfinished_run_gives_what_is_there(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, FakeRun(samples=10, finished=False)))
    task = run.tasks["demo-math"]
    assert run.state == "unfinished"
    assert not task.finished
    assert (len(task.rows), task.num_expected) == (5, 10)
    assert "_async_position" not in task.rows[0, 0]


def test_rows_that_arrive_after_a_finished_file_are_added(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=4)))
    row = json.loads(paths.output("demo-math", 0).read_text().splitlines()[0])
    paths.output_async("demo-math", 0).write_text(json.dumps({**row, "_async_position": 4}) + "\n")
    run = read_run(paths.run_dir)
    assert sorted(run.tasks["demo-math"].rows) == [(i, 0) for i in range(5)]
    assert any("1 of 5 scored samples have no line" in note for note in run.notes)


def test_an_arriving_row_carries_its_ledger_when_the_log_is_lost(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(mode="dlm", samples=6, finished=False)))
    paths.nfe_log(0).unlink()
    run = read_run(paths.run_dir)
    assert run.label == "dlm"
    assert len(run.tasks["demo-math"].records) == 3


def test_torn_lines_are_left_out_and_named(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=5)))
    files = (paths.output("demo-math", 0), paths.nfe_log(0))
    for path in files:
        path.write_text(path.read_text()[:-40])
    run = read_run(paths.run_dir)
    assert len(run.tasks["demo-math"].rows) == 4
    assert sorted(note.split(",")[0] for note in run.notes if "torn" in note) == sorted(map(str, files))


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_a_damaged_json_file_is_named_and_survived(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path, FakeRun())
    (folder / name).write_text("{")
    run = read_run(folder)
    assert len(run.tasks["demo-math"].rows) == 20
    assert any(name in note for note in run.notes)


def test_a_row_without_a_verdict_is_left_out_and_counted(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=3)))
    output = paths.output("demo-math", 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    del rows[1]["symbolic_correct"]
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(paths.run_dir)
    assert sorted(run.tasks["demo-math"].rows) == [(0, 0), (2, 0)]
    assert any("1 rows carry no verdict" in note for note in run.notes)


def test_an_unknown_benchmark_is_named_and_skipped(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun()))
    paths.task_dir("not-a-benchmark").mkdir()
    run = read_run(paths.run_dir)
    assert list(run.tasks) == ["demo-math"]
    assert any("not-a-benchmark" in note for note in run.notes)


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_expected_count_follows_the_rows_of_the_data_file(tmp_path: Path) -> None:
    """The registry says 1319; the data file that was asked has 3 rows."""
    folder = write_run(tmp_path, FakeRun(samples=3, seeds=2))

    def registry(value: Any) -> None:
        for job in value["jobs"].values() if isinstance(value["jobs"], dict) else value["jobs"]:
            job.get("config", job)["tasks"][0]["num_samples"] = 1319

    edit_json(folder / "manifest.json", registry)
    edit_json(folder / "plan.json", registry)
    run = read_run(folder)
    assert (run.tasks["demo-math"].num_expected, run.state) == (6, "completed")


@pytest.mark.parametrize(("limit", "rows", "expected"), [(2, 3, 2), (9, 3, 3), (None, 2000, 2000), (5, 2000, 5)])
def test_a_limit_counts_within_the_rows_of_the_data_file(
    tmp_path: Path, limit: int | None, rows: int, expected: int
) -> None:
    folder = write_run(tmp_path, FakeRun(samples=3))

    def limited(plan: Any) -> None:
        plan["jobs"][0]["tasks"][0] |= {"num_samples": 1319, "limit": limit}

    edit_json(folder / "plan.json", limited)
    edit_json(folder / "manifest.json", lambda manifest: manifest["data"]["demo-math"].update(num_rows=rows))
    assert read_run(folder).tasks["demo-math"].num_expected == expected


@pytest.mark.parametrize("damage", [None, [], "text", {"decode": 1}])
@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_settings_that_cannot_be_read_are_noted(tmp_path: Path, name: str, damage: object) -> None:
    folder = write_run(tmp_path, FakeRun())

    def replace(value: Any) -> None:
        if isinstance(value["jobs"], dict):
            value["jobs"]["0"]["config"] = damage
        else:
            value["jobs"][0] = damage

    edit_json(folder / name, replace)
    run = read_run(folder)
    assert any(f"{name}: the settings of job 0" in note for note in run.notes)
    assert len(run.jobs) == 1


def test_acceptance_lengths_of_earlier_releases_end_with_the_answer(tmp_path: Path) -> None:
    """They recorded the whole last draft: 30 accepted tokens of which 5 are in the answer."""
    paths = RunPaths(write_run(tmp_path, FakeRun(mode="linear_spec", samples=2)))
    lines = [json.loads(line) for line in paths.nfe_log(0).read_text().splitlines()]
    lines[0] |= {"completion_tokens": 16, "acceptance_lengths": [10, 30, 3]}
    paths.nfe_log(0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = read_run(paths.run_dir).tasks["demo-math"].records
    assert records[0, 0].cost.acceptance_lengths == [10, 5, 0]
    assert records[1, 0].cost.acceptance_lengths == lines[1]["acceptance_lengths"]


def test_failed_samples_are_named(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=5)))
    lines = [json.loads(line) for line in paths.nfe_log(0).read_text().splitlines()]
    lines[3] |= {"finish_reason": "error", "error": "HTTP 400: prompt too long"}
    paths.nfe_log(0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(paths.run_dir)
    assert run.tasks["demo-math"].failed_keys == [(3, 0)]
    assert any("1 failed samples" in note and "3 (seed 0)" in note for note in run.notes)


def test_a_run_that_never_said_its_mode_is_skipped_beside_others(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    RunPaths(tmp_path / "foreign").task_dir("gsm8k").mkdir(parents=True)
    runs, notes = read_sweep(tmp_path)
    assert [run.label for run in runs] == ["ar"]
    assert any("tells the mode" in note for note in notes)


def test_a_damaged_line_does_not_move_the_rows_after_it(tmp_path: Path) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=4)))
    whole = read_run(paths.run_dir).tasks["demo-math"].rows
    output = paths.output("demo-math", 0)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join([lines[0], b"\xff{garbage\n", *lines[2:]]))
    run = read_run(paths.run_dir)
    assert run.tasks["demo-math"].rows == {key: row for key, row in whole.items() if key != (1, 0)}
    assert any("line 2: torn" in note for note in run.notes)


@pytest.mark.parametrize("value", ["x", None, [1], float("nan"), -1, {}])
@pytest.mark.parametrize("name", ["mode", "nfe", "completion_tokens", "forwards", "acceptance_lengths", "total_s"])
def test_a_damaged_ledger_line_is_left_out_with_a_note(tmp_path: Path, name: str, value: object) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=3, mode="linear_spec")))
    log = paths.nfe_log(0)
    first, *others = log.read_text().splitlines()
    if (name, value) in (("forwards", {}), ("acceptance_lengths", [1])):
        return
    damaged = json.loads(first) | {"forwards": {"verify": 3}} | {name: value}
    log.write_text("\n".join([json.dumps(damaged), *others]) + "\n")
    run = read_run(paths.run_dir)
    assert len(run.tasks["demo-math"].records) == 2
    assert any("a line lacks fields" in note or "ledger record" in note for note in run.notes)


@pytest.mark.parametrize("verdict", ["yes", float("nan"), [1], None, 10**400])
def test_a_damaged_verdict_is_no_verdict(tmp_path: Path, verdict: object) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=3)))
    output = paths.output("demo-math", 0)
    first, *others = output.read_text().splitlines()
    output.write_text("\n".join([json.dumps(json.loads(first) | {"symbolic_correct": verdict}), *others]) + "\n")
    run = read_run(paths.run_dir)
    assert sorted(run.tasks["demo-math"].rows) == [(1, 0), (2, 0)]
    assert any("1 rows carry no verdict" in note for note in run.notes)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "results/eval-results/demo-math/metrics.json"])
def test_a_file_nested_too_deeply_is_a_note(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path, FakeRun(samples=3))
    (folder / name).write_text("[" * 100_000)
    assert any(name in note for note in read_run(folder).notes)
