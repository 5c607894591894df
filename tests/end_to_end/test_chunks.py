"""Jobs that share a benchmark: every row is answered once, and the last job puts one file together."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import is_finished, remaining
from trimode.pipeline.run_folder.rows import ERROR_KIND, INFRASTRUCTURE, finished_positions, read_output, read_rows
from trimode.pipeline.run_folder.store import SeedStore
from trimode.pipeline.spec import JobSpec, SampleShare
from trimode.tests.fakes.specs import job_spec, start_job, task_spec, write_data
from trimode.tests.pipeline.job.test_run import paths_of, rows_of, run, wait_for_rows
from trimode.tests.pipeline.run_folder.test_store import record, row, same

pytestmark = pytest.mark.process


@given(num_rows=st.integers(0, 200), count=st.integers(1, 17))
def test_chunks_cover_every_row_once_and_differ_by_one(num_rows: int, count: int) -> None:
    shares = [SampleShare(index, count).positions(num_rows) for index in range(count)]
    assert [position for share in shares for position in share] == list(range(num_rows))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def chunk_jobs(spec: JobSpec, count: int) -> list[JobSpec]:
    return [
        dataclasses.replace(
            spec,
            index=index,
            name=f"fake-chunk{index}",
            tasks=tuple(dataclasses.replace(task, chunk=SampleShare(index, count)) for task in spec.tasks),
        )
        for index in range(count)
    ]


def ledger_keys(spec: JobSpec, num_logs: int) -> list[tuple[str, int, int]]:
    """Keys of every line of every log: no sample is logged twice as long as no job takes over another's answers."""
    logs = [read_nfe_log(paths_of(spec).nfe_log(index)) for index in range(num_logs)]
    return sorted(line.key for log in logs for line in log)


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    write_data(tmp_path / "data", 40)
    return job_spec(tmp_path, (task_spec(limit=20, seeds=(0, 1)),))


@pytest.fixture
def calm(tmp_path: Path) -> JobSpec:
    """The same samples in one job."""
    folder = tmp_path / "calm"
    write_data(folder / "data", 40)
    whole = job_spec(folder, (task_spec(limit=20, seeds=(0, 1)),))
    assert run(whole, folder)[0] == 0
    return whole


def metrics_of(spec: JobSpec) -> dict[str, object]:
    """metrics.json without its times."""
    metrics = json.loads(paths_of(spec).metrics("gsm8k").read_text())
    for values in metrics["gsm8k"].values():
        del values["gen_seconds"]
    del metrics["tokens_per_second"]
    return dict(metrics)


def assert_whole(spec: JobSpec, calm: JobSpec, num_jobs: int) -> None:
    """Rows, metrics and ledger are those of one job, once."""
    paths = paths_of(spec)
    assert [rows_of(spec, seed) for seed in (0, 1)] == [rows_of(calm, seed) for seed in (0, 1)]
    assert metrics_of(spec) == metrics_of(calm)
    assert ledger_keys(spec, num_jobs) == [("gsm8k", seed, position) for seed in (0, 1) for position in range(20)]
    assert not list(paths.task_dir("gsm8k").glob("*-async"))
    assert all(paths.completed(index).exists() for index in range(num_jobs))


def test_chunks_one_after_another_equal_one_job(spec: JobSpec, calm: JobSpec, tmp_path: Path) -> None:
    jobs = chunk_jobs(spec, 3)
    for index in (2, 0):
        status, output = run(jobs[index], tmp_path)
        assert status == 0, output
        assert f"gsm8k: chunk {index} of 3 is finished" in output
        assert not paths_of(spec).metrics("gsm8k").exists()
        assert is_finished(jobs[index])
    assert run(jobs[1], tmp_path)[0] == 0
    assert_whole(spec, calm, 3)
    assert all(is_finished(job) for job in [*jobs, spec])


def test_chunks_at_once_with_one_killed_equal_one_job(spec: JobSpec, calm: JobSpec, tmp_path: Path) -> None:
    folders = [tmp_path / str(index) for index in range(3)]
    jobs = chunk_jobs(spec, 3)
    started = []
    for job, folder in zip(jobs, folders, strict=True):
        folder.mkdir()
        started.append(start_job(job, folder, {"delay_s": 0.05}))
    wait_for_rows(spec, started[0], 6)
    os.kill(started[0].pid, signal.SIGKILL)
    for process in started:
        process.communicate(timeout=60)
    assert not paths_of(spec).metrics("gsm8k").exists()
    assert run(jobs[0], folders[0])[0] == 0
    assert_whole(spec, calm, 3)


def test_another_number_of_chunks_goes_on_from_what_is_there(spec: JobSpec, calm: JobSpec, tmp_path: Path) -> None:
    assert run(chunk_jobs(spec, 4)[1], tmp_path)[0] == 0
    assert sum(remaining(spec).values()) == 30
    for job in chunk_jobs(spec, 2):
        assert run(job, tmp_path)[0] == 0
    assert_whole(spec, calm, 2)


def test_one_job_takes_over_from_chunks(spec: JobSpec, calm: JobSpec, tmp_path: Path) -> None:
    assert run(chunk_jobs(spec, 4)[2], tmp_path)[0] == 0
    status, output = run(spec, tmp_path)
    assert status == 0
    assert "gsm8k: 10/40" in output
    assert [rows_of(spec, seed) for seed in (0, 1)] == [rows_of(calm, seed) for seed in (0, 1)]
    assert ledger_keys(spec, 4) == ledger_keys(calm, 1)


def test_job_killed_between_marker_and_merge_is_not_finished(spec: JobSpec, calm: JobSpec, tmp_path: Path) -> None:
    jobs = chunk_jobs(spec, 2)
    for job in jobs:
        assert run(job, tmp_path)[0] == 0
    paths_of(spec).metrics("gsm8k").unlink()
    assert not is_finished(jobs[0])
    assert run(jobs[0], tmp_path, {"fail_start": "must not start"})[0] == 0
    assert_whole(spec, calm, 2)


def test_an_answer_wins_over_a_failure_whatever_file_it_is_in(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    failed: Row = {**row(0), "error": "no worker", ERROR_KIND: INFRASTRUCTURE}
    chunk = SeedStore(paths, "gsm8k", 0, SampleShare(0, 2))
    chunk.append(0, failed, record(0))
    chunk.close()
    assert finished_positions(paths, "gsm8k", 0) == set()
    whole = SeedStore(paths, "gsm8k", 0)
    whole.append(0, row(0), record(0))
    whole.close()
    assert finished_positions(paths, "gsm8k", 0) == {0}
    assert read_rows(paths, "gsm8k", 0)[0]["generation"] == row(0)["generation"]


def test_a_chunk_that_begins_again_holds_back_the_merge(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    first, second = (SeedStore(paths, "gsm8k", 0, SampleShare(index, 2)) for index in (0, 1))
    first.append(0, row(0), record(0))
    assert not first.finish(2, same)
    second.append(1, row(1), record(1))
    first.append(0, row(0), record(0))  # asked again: its marker is gone until it ends
    assert not second.finish(2, same)
    assert not paths.output("gsm8k", 0).exists()
    assert first.finish(2, same)
    assert read_output(paths, "gsm8k", 0) == [row(0), row(1)]


def test_a_chunk_with_nothing_to_ask_does_not_hold_up_the_others(spec: JobSpec, tmp_path: Path) -> None:
    assert run(spec, tmp_path)[0] == 0
    larger = dataclasses.replace(spec, tasks=(task_spec(limit=40, seeds=(0, 1)),))
    first, second = chunk_jobs(larger, 2)
    assert not any(remaining(first).values())
    assert run(second, tmp_path)[0] == 0
    assert len(rows_of(spec)) == 40
    assert json.loads(paths_of(spec).metrics("gsm8k").read_text())["nfe_count"] == 80
    assert is_finished(first)
    assert ledger_keys(spec, 2) == [("gsm8k", seed, position) for seed in (0, 1) for position in range(40)]


def test_rows_that_nobody_put_together_are_not_finished(spec: JobSpec, calm: JobSpec, tmp_path: Path) -> None:
    jobs = chunk_jobs(spec, 2)
    assert run(jobs[0], tmp_path)[0] == 0
    assert run(jobs[1], tmp_path)[0] == 0
    paths = paths_of(spec)
    rows = read_output(paths, "gsm8k", 0)
    store = SeedStore(paths, "gsm8k", 0, SampleShare(1, 2))
    store.append(19, rows[19], record(19))
    store.close()
    assert not any(remaining(spec).values())
    assert not is_finished(jobs[0])
    assert run(jobs[1], tmp_path, {"fail_start": "must not start"})[0] == 0
    assert rows_of(spec) == rows_of(calm)
    assert is_finished(jobs[0])
