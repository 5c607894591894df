"""The log of one job: made to agree with the rows, and merged with the logs of other jobs only by the reader."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trimode.pipeline.run_folder.ledger import Ledger
from trimode.pipeline.run_folder.nfe import read_nfe_log, read_run_ledger
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.store import SeedStore
from trimode.pipeline.spec import SampleShare
from trimode.tests.fakes.specs import job_spec, task_spec
from trimode.tests.pipeline.run_folder.test_store import paths_in, record, row, same


def ledger_of(folder: Path, index: int, chunk: SampleShare | None) -> Ledger:
    task = dataclasses.replace(task_spec(limit=4), chunk=chunk)
    return Ledger(job_spec(folder, (task,), index=index), RunPaths(folder / "run"))


def test_ledger_keeps_lines_of_other_benchmarks(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    ledger = Ledger(job_spec(tmp_path), paths)
    ledger.path.parent.mkdir(parents=True)
    ledger.path.write_text(record(0, benchmark="math-500").to_line() + record(0).to_line())
    ledger.open()
    ledger.close()
    assert [item.benchmark for item in read_nfe_log(ledger.path)] == ["math-500"]


def test_ledger_does_not_repeat_another_jobs_line(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    store.append(0, row(0), record(0))
    store.close()
    first = Ledger(job_spec(tmp_path), paths)
    first.open()
    second = Ledger(job_spec(tmp_path, index=4), paths)
    second.open()
    assert len(read_nfe_log(first.path)) == 1
    assert read_nfe_log(second.path) == []


def test_an_answers_line_counts_beside_another_jobs_line_of_the_failure(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    paths.nfe_log(0).parent.mkdir(parents=True)
    paths.nfe_log(0).write_text(record(1, error="no worker", finish_reason="error").to_line())
    paths.nfe_log(1).parent.mkdir(parents=True)
    paths.nfe_log(1).write_text(record(1).to_line())
    store = SeedStore(paths, "gsm8k", 0)
    for position in range(4):
        store.append(position, row(position), record(position))
    store.finish(4, same)
    for index, share in ((1, SampleShare(1, 2)), (0, SampleShare(0, 2)), (1, SampleShare(1, 2))):
        ledger = ledger_of(tmp_path, index, share)
        ledger.open()
        ledger.close()
    assert read_run_ledger(paths.run_dir) == {("gsm8k", 0, 1): record(1)}


def test_a_job_writes_only_its_own_log(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    store = SeedStore(paths, "gsm8k", 0)
    store.append(0, row(0), record(0))
    store.close()
    paths.nfe_log(1).parent.mkdir(parents=True)
    paths.nfe_log(1).write_text(record(3).to_line() * 2)
    before = paths.nfe_log(1).read_bytes()
    ledger = ledger_of(tmp_path, 0, None)
    ledger.open()
    ledger.close()
    assert paths.nfe_log(1).read_bytes() == before
    assert read_nfe_log(paths.nfe_log(0)) == [record(0)]


def test_line_lost_by_a_kill_is_written_by_the_job_that_owns_the_row(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    store = SeedStore(paths, "gsm8k", 0, SampleShare(1, 2))
    store.append(3, row(3), record(3))  # killed before the line of the row
    store.close()
    for index in (0, 1):
        ledger_of(tmp_path, index, SampleShare(index, 2)).open()
    assert [read_nfe_log(paths.nfe_log(index)) for index in (0, 1)] == [[], [record(3)]]


def test_line_lost_by_a_kill_is_written_by_the_job_that_puts_the_rows_together(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    killed = SeedStore(paths, "gsm8k", 0, SampleShare(3, 4))
    killed.append(3, row(3), record(3))  # killed before the line of the row, then two jobs go on instead of four
    killed.close()
    ledger = ledger_of(tmp_path, 0, SampleShare(0, 2))
    ledger.open()
    store = SeedStore(paths, "gsm8k", 0, SampleShare(0, 2), ledger)
    for position in range(3):
        store.append(position, row(position), record(position))
        ledger.append(record(position))
    assert store.finish(4, same)
    ledger.close()
    assert read_nfe_log(paths.nfe_log(0)) == [record(position) for position in range(4)]


def test_a_line_whose_row_was_removed_goes(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store, ledger = SeedStore(paths, "gsm8k", 0), Ledger(job_spec(tmp_path), paths)
    ledger.open()
    store.append(0, row(0), record(0))
    ledger.append(record(0))
    store.close()
    ledger.close()
    paths.output_async("gsm8k", 0).unlink()
    again = Ledger(job_spec(tmp_path), paths)
    again.open()
    assert read_nfe_log(again.path) == []


def test_a_torn_last_line_is_written_anew_from_its_row(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store, ledger = SeedStore(paths, "gsm8k", 0), Ledger(job_spec(tmp_path), paths)
    ledger.open()
    for position in (0, 1):
        store.append(position, row(position), record(position))
        ledger.append(record(position))
    store.close()
    ledger.close()
    ledger.path.write_text(ledger.path.read_text()[:-9])
    again = Ledger(job_spec(tmp_path), paths)
    again.open()
    assert read_nfe_log(again.path) == [record(0), record(1)]


def test_closing_keeps_the_last_line_of_a_sample(tmp_path: Path) -> None:
    ledger = Ledger(job_spec(tmp_path), paths_in(tmp_path))
    ledger.open()
    for nfe in (1, 2):
        ledger.append(record(0, nfe=nfe))
    ledger.append(record(1))
    ledger.close()
    assert read_nfe_log(ledger.path) == [record(0, nfe=2), record(1)]
