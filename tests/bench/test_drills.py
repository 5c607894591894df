"""The drills' own bookkeeping: what counts as lost, doubled, wrong or left, who is drilled, and the table."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest
from trimode.bench.drills.__main__ import Planner, run
from trimode.bench.drills.compare import Difference, difference, read_result
from trimode.bench.drills.drill import Record, read_records, write_record
from trimode.bench.drills.limit import BENCHMARKS, MODES, repeats_to_meet, show
from trimode.bench.drills.strikes import KINDS
from trimode.bench.drills.sweep import PROGRAMS
from trimode.bench.drills.table import as_markdown
from trimode.core.errors import ConfigError
from trimode.core.files import write_text_atomic
from trimode.core.protocol import Row
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flags import to_overrides
from trimode.pipeline.run_folder.paths import RunPaths

FORWARDS = {"prefill": 1, "decode": 9}


def row(position: int, **changes: object) -> Row:
    return {"id": position, "is_correct": True, "generation": "x", "generation_time": 0.5 + position, **changes}


def line(position: int, **changes: object) -> Row:
    made = {"benchmark": "demo-code", "sample_id": position, "seed": 0, "completion_tokens": 10, "forwards": FORWARDS}
    return made | {"total_s": 1.0 * position, **changes}


def folder(path: Path, rows: list[Row], ledger: list[Row], *others: str) -> Path:
    """An output folder with one run folder."""
    paths = RunPaths(path / "exp" / "hf_base" / "eval_0123456789ab")
    write_text_atomic(paths.output("demo-code", 0), "".join(json.dumps(item) + "\n" for item in rows))
    write_text_atomic(paths.nfe_log(0), "".join(json.dumps(item) + "\n" for item in ledger))
    for name in others:
        write_text_atomic(path / name, "")
    return path


def test_times_and_names_that_change_are_no_difference(tmp_path: Path) -> None:
    logs = (".submitit/aa/1234567_0_log.out", ".submitit/bb/1234568_0_log.out")
    calm = read_result(folder(tmp_path / "a", [row(0), row(1)], [line(0), line(1)], logs[0]), ("demo-code",))
    late = folder(tmp_path / "b", [row(0, generation_time=9), row(1)], [line(1), line(0, total_s=7)], *logs)
    found = difference(read_result(late, ("demo-code",)), calm)
    assert (found.lost, found.doubled, found.wrong_verdicts, found.other_rows, found.left_files) == (0, 0, 0, 0, ())
    assert (calm.tokens, calm.forwards) == (20, 18)


def test_every_other_difference_is_counted(tmp_path: Path) -> None:
    samples = range(4)
    calm = read_result(folder(tmp_path / "a", [row(n) for n in samples], [line(n) for n in samples]), ("demo-code",))
    rows = [row(0), row(1, is_correct=False), row(2, generation="y"), row(3)]
    ledger = [line(0), line(0), line(1), line(2)]
    other = folder(tmp_path / "b", rows, ledger, "exp/hf_base/eval_0123456789ab/FAILED_group0")
    found = difference(read_result(other, ("demo-code",)), calm)
    assert (found.lost, found.doubled, found.wrong_verdicts) == (1, 1, 1)
    assert found.other_rows == 2  # a text, and the ledger line that is lost
    assert found.left_files == ("exp/hf_base/eval_*/FAILED_group0",)


def limited(path: Path, rows: int, *, doubled: bool = False, met: bool = True) -> Path:
    """What a sweep of all modes with two repeats leaves. Its jobs had two runs each, of nine and eight minutes."""
    runs = [
        {"restart_count": n, "slurm_job_id": "7", "start": f"2026-11-26T10:0{n}:00+00:00", "new_samples": 1}
        | {
            "end": "2026-11-26T10:09:00+00:00",
            "status": ("interrupted" if met else "lost", "completed")[n],
            "cause": (None, "a signal")[n],
        }
        for n in (0, 1)
    ]
    for mode in MODES:
        paths = RunPaths(path / "out" / f"demo_{mode}_tok9" / "hf_base" / "eval_0123456789ab")
        lines = [
            json.dumps(line(n, benchmark=benchmark, seed=seed)) + "\n"
            for benchmark in BENCHMARKS
            for seed in (0, 1)
            for n in (*range(rows), *([0] * doubled))
        ]
        write_text_atomic(paths.nfe_log(0), "".join(lines))
        for benchmark in BENCHMARKS:
            for seed in (0, 1):
                text = "".join(json.dumps(row(n)) + "\n" for n in range(rows))
                write_text_atomic(paths.output(benchmark, seed), text)
        write_text_atomic(paths.manifest, json.dumps({"jobs": {"0": {"runs": runs}}}))
        write_text_atomic(paths.completed(0), "")
    return path


@pytest.mark.parametrize(
    ("rows", "doubled", "said"), [(3, False, "0 lost, 0 doubled"), (2, False, "4 lost"), (3, True, "4 doubled")]
)
def test_a_sweep_that_met_its_limit_is_set_beside_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int, doubled: bool, said: str
) -> None:
    calm = limited(tmp_path / "enough", 3)
    assert show(limited(tmp_path / "limited", rows, doubled=doubled), calm) is (said == "0 lost, 0 doubled")
    printed = capsys.readouterr().out
    assert printed.count(said) == len(MODES) and printed.count(f"COMPLETED, {4 * rows} rows") == len(MODES)
    assert printed.splitlines()[-1] == "the time limit ended 3 runs"
    assert "run 2 of job 7: 10:01:00 to 10:09:00, 1 samples, completed (a signal)" in printed


def test_a_sweep_whose_jobs_did_not_meet_their_limit_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not show(limited(tmp_path / "limited", 3, met=False), limited(tmp_path / "enough", 3))
    assert capsys.readouterr().out.splitlines()[-1].startswith("no job has met its limit")


@pytest.mark.parametrize(("minutes", "repeats", "needed"), [(3, 2, 2), (12, 2, 4), (600, 2, 60)])
def test_a_quick_machine_gets_more_repeats(tmp_path: Path, minutes: int, repeats: int, needed: int) -> None:
    assert repeats_to_meet(limited(tmp_path, 1), minutes, repeats) == needed


def test_the_limit_is_met_by_all_modes_that_the_flag_names() -> None:
    config = compose(to_overrides(["--mode", "all", "--model", "m"]))
    assert tuple(config.modes) == MODES


def planner(kills: int, *kinds: str, per_run: int = 2) -> Planner:
    return Planner(kinds, ("ar", "dlm"), argparse.Namespace(kills=kills, per_run=per_run, seed=0))


def test_every_kind_gets_its_share_and_a_miss_is_made_up_for() -> None:
    plan = planner(7, "worker", "full_disk")
    strikes: Counter[str] = Counter()
    while (record := plan.next(alone=False)) is not None:
        assert record.strikes == (1 if record.kind == "full_disk" else min(2, 4 - strikes[record.kind]))
        record.phases = ["serving"] * (record.strikes - (len(strikes) == 0))  # the first drill misses once
        strikes[record.kind] += len(record.phases)
        plan.done(record)
    assert strikes == {"worker": 4, "full_disk": 3}


def test_what_hits_the_whole_cluster_comes_by_itself() -> None:
    plan = planner(2, "worker", "slurmctld")
    alone = plan.next(alone=True)
    assert alone is not None and alone.kind == "slurmctld" and plan.next(alone=True) is None


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = Difference(lost=0, doubled=1, wrong_verdicts=0, other_rows=0, left_files=("a",), details=("b",))
    records = [Record(kind="worker", mode="ar", seed=1, found=found), Record(kind="job", mode="dlm", seed=2)]
    for record in records:
        write_record(tmp_path / "records", record)
    assert read_records(tmp_path / "records") == records
    assert read_records(tmp_path / "none") == []


def test_the_table_has_a_line_per_kind_and_names_what_is_not_clean() -> None:
    hung = Record(kind="worker", mode="ar", seed=7, strikes=1, phases=["serving"], notes=["HANG: no end"])
    text = as_markdown([hung], "python -m trimode.bench.drills", "today")
    assert "| worker | 1 | 1 | 0 | 0 | 0 | 0 | 1 |" in text and "- worker: SIGKILL to the worker." in text
    assert "worker (ar, seed 7, serving): HANG: no end" in text


@pytest.mark.parametrize("flags", [["--kinds", "dog"], ["--modes", "dog"], ["--kinds", ""]])
def test_an_unknown_name_is_refused(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="valid: "):
        run(flags)


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("job", "/venv/bin/python -u -m trimode.pipeline.launch.task /out/.submitit/aa "),
        ("balancer", "/venv/bin/python -m trimode.balancer.server --model m "),
        ("worker", "ray::WorkerActor.start "),
        ("gcs", "/site/ray/core/src/ray/gcs/gcs_server --log_dir=/x "),
        ("srun", "srun --unbuffered --output /x python -u -m trimode.pipeline.launch.task /out "),
        ("batch", "/bin/bash /spool/n1/job0123/slurm_script "),
    ],
)
def test_a_process_is_of_one_kind(program: str, command: str) -> None:
    assert [name for name, pattern in PROGRAMS.items() if pattern.search(command)] == [program]


def test_a_person_types_only_where_a_person_has_ended_the_job() -> None:
    assert [name for name, kind in KINDS.items() if kind.by_hand] == ["scancel", "full_disk"]
