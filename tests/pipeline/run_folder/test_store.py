"""Rows and ledger lines on disk: what a kill between any two writes leaves, and what the next run makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimode.core.files import AppendFile, cut_torn_line
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.ledger import Ledger
from trimode.pipeline.run_folder.nfe import NfeRecord, read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import remaining
from trimode.pipeline.run_folder.rows import finished_positions, num_rows, read_output, read_rows
from trimode.pipeline.run_folder.store import SeedStore
from trimode.tests.fakes.specs import job_spec, task_spec


def record(position: int, seed: int = 0, **changes: object) -> NfeRecord:
    values: dict[str, object] = {
        "request_id": f"r{seed}-{position}",
        "benchmark": "gsm8k",
        "sample_id": position,
        "seed": seed,
        "mode": "ar",
        "lora": False,
        "prompt_tokens": 3,
        "completion_tokens": position + 1,
        "finish_reason": "stop",
        "nfe": position + 2,
    }
    return NfeRecord.from_json(values | changes)


def row(position: int) -> Row:
    return {"generation": f"answer {position} \u2028\u201c", "num_generated_tokens": position + 1}


def same(rows: list[Row]) -> list[Row]:
    return rows


def paths_in(folder: Path) -> RunPaths:
    return RunPaths(folder / "run")


def test_finished_seed_is_ordered_and_plain(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    for position in (2, 0, 1):
        store.append(position, row(position), record(position))
    store.finish(3, same)
    assert read_output(paths, "gsm8k", 0) == [row(0), row(1), row(2)]
    assert paths.output_done("gsm8k", 0).exists()
    assert not paths.output_async("gsm8k", 0).exists()


def test_async_row_carries_position_and_ledger(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    store.append(5, row(5), record(5))
    store.close()
    line = json.loads(paths.output_async("gsm8k", 0).read_text())
    assert line["_async_position"] == 5
    assert NfeRecord.from_json(line["_nfe"]) == record(5)


def test_finish_refuses_a_missing_row(tmp_path: Path) -> None:
    store = SeedStore(paths_in(tmp_path), "gsm8k", 0)
    store.append(1, row(1), record(1))
    with pytest.raises(KeyError):
        store.finish(2, same)


def test_larger_limit_adds_to_a_finished_seed(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    store.append(0, row(0), record(0))
    store.finish(1, same)
    store.append(1, row(1), record(1))
    assert not paths.output_done("gsm8k", 0).exists()
    store.finish(2, same)
    assert read_output(paths, "gsm8k", 0) == [row(0), row(1)]


def test_smaller_limit_keeps_rows_beyond_it(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    for position in (0, 3):
        store.append(position, row(position), record(position))
    store.finish(1, same)
    assert read_output(paths, "gsm8k", 0) == [row(0)]
    assert finished_positions(paths, "gsm8k", 0) == {0, 3}
    store.finish(1, same)
    assert read_rows(paths, "gsm8k", 0).keys() == {0, 3}


def test_kill_between_rename_and_removal_changes_nothing(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    store.append(0, row(0), record(0))
    store.close()
    left = paths.output_async("gsm8k", 0).read_text()
    store.finish(1, same)
    before = paths.output("gsm8k", 0).read_text()
    paths.output_async("gsm8k", 0).write_text(left)
    paths.output_done("gsm8k", 0).unlink()
    SeedStore(paths, "gsm8k", 0).finish(1, same)
    assert paths.output("gsm8k", 0).read_text() == before
    assert not paths.output_async("gsm8k", 0).exists()


def test_torn_last_line_is_cut_before_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n{"b": ')
    file = AppendFile(path)
    file.append('{"c": 3}\n')
    file.close()
    assert path.read_text() == '{"a": 1}\n{"c": 3}\n'


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("first\n" + "x" * 200_000)
    cut_torn_line(path)
    assert path.read_text() == "first\n"


def test_a_file_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("x" * 70_000)
    cut_torn_line(path)
    assert path.read_text() == ""


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_prefix_of_the_writes_resumes_to_the_same_files(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = paths_in(tmp_path_factory.mktemp("run"))
    spec = job_spec(paths.run_dir.parent, (task_spec(limit=5),))
    order = data.draw(st.permutations(range(5)))
    lines = {position: len(_async_line(tmp_path_factory, position)) for position in order}
    cut = data.draw(st.integers(0, sum(lines.values())))
    logged = data.draw(st.integers(0, 5))
    store, ledger = SeedStore(paths, "gsm8k", 0), Ledger(spec, paths)
    ledger.open()
    for index, position in enumerate(order):
        store.append(position, row(position), record(position))
        if index < logged:
            ledger.append(record(position))
    store.close()
    whole = paths.output_async("gsm8k", 0).read_bytes()
    paths.output_async("gsm8k", 0).write_bytes(whole[:cut])

    ledger = Ledger(spec, paths)
    ledger.open()
    finished = finished_positions(paths, "gsm8k", 0)
    assert {item.sample_id for item in read_nfe_log(ledger.path)} == finished
    store = SeedStore(paths, "gsm8k", 0)
    for position in sorted(set(range(5)) - finished):
        store.append(position, row(position), record(position))
        ledger.append(record(position))
    store.finish(5, same)
    ledger.close()
    assert read_output(paths, "gsm8k", 0) == [row(position) for position in range(5)]
    assert sorted(item.sample_id for item in read_nfe_log(ledger.path)) == list(range(5))
    assert sum(item.cost.completion_tokens for item in read_nfe_log(ledger.path)) == sum(range(1, 6))


def _async_line(factory: pytest.TempPathFactory, position: int) -> bytes:
    paths = RunPaths(factory.mktemp("line"))
    store = SeedStore(paths, "gsm8k", 0)
    store.append(position, row(position), record(position))
    store.close()
    return paths.output_async("gsm8k", 0).read_bytes()


def test_sample_run_again_has_one_line(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store, ledger = SeedStore(paths, "gsm8k", 0), Ledger(job_spec(tmp_path), paths)
    ledger.open()
    failed = record(0, error="HTTP 503: x", finish_reason="error")
    store.append(0, row(0) | {"error": "HTTP 503: x", "error_kind": "infrastructure"}, failed)
    ledger.append(failed)
    store.finish(1, same)
    assert finished_positions(paths, "gsm8k", 0) == set()
    store.append(0, row(0), record(0))
    ledger.append(record(0))
    store.finish(1, same)
    ledger.close()
    assert read_nfe_log(ledger.path) == [record(0)]
    assert read_output(paths, "gsm8k", 0) == [row(0)]


def test_refused_sample_is_finished(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    store.append(0, row(0) | {"error": "HTTP 400: x", "error_kind": "request"}, record(0))
    store.finish(1, same)
    assert finished_positions(paths, "gsm8k", 0) == {0}


def test_answer_that_quotes_the_retry_mark_is_finished(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 0)
    store.append(0, {"generation": '"error_kind": "infrastructure"'}, record(0))
    store.finish(1, same)
    assert finished_positions(paths, "gsm8k", 0) == {0}


def test_remaining_counts_per_benchmark_and_seed(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    store = SeedStore(paths, "gsm8k", 1)
    store.append(2, row(2), record(2, seed=1))
    store.close()
    left = remaining(job_spec(tmp_path, (task_spec(limit=10, seeds=(0, 1)),)))
    assert left == {("gsm8k", 0): 10, ("gsm8k", 1): 9}


def test_rows_asked_follow_the_data_seen_before(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    paths.run_dir.mkdir()
    assert num_rows(paths, task_spec()) == 1319
    paths.manifest.write_text(json.dumps({"data": {"gsm8k": {"sha256": "x", "num_rows": 40}}}))
    assert num_rows(paths, task_spec()) == 40
    assert num_rows(paths, task_spec(limit=50)) == 40
    assert num_rows(paths, task_spec(limit=5)) == 5
