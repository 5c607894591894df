"""Early kills: records are kept as they are, and the table counts what was not clean."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from trimode.bench.drills import early
from trimode.bench.drills.compare import Difference
from trimode.bench.drills.drill import Record, Reference
from trimode.bench.drills.early import EarlyDrill, Hit, as_markdown, is_clean, read_hits, run, write_hit
from trimode.bench.drills.sweep import Sweep
from trimode.pipeline.slurm.queue import QueueEntry

CLEAN = Difference(lost=0, doubled=0, wrong_verdicts=0, other_rows=0, left_files=())


def hit(found: Difference | None = CLEAN, *, at_s: float = 0.2, typed: int = 0) -> Hit:
    record = Record(kind="batch", mode="ar", seed=1, found=found, typed=["the same command"] * typed)
    return Hit(program="batch", signal_name="KILL", at_s=at_s, way="requeued", record=record)


def left(processes: Sequence[str] = (), files: Sequence[str] = ()) -> Hit:
    found = hit()
    return replace(found, record=replace(found.record, left_processes=[*processes], left_files=[*files]))


def test_drills_are_read_as_they_were_written(tmp_path: Path) -> None:
    hits = [hit(), hit(None, at_s=0.5)]
    for item in hits:
        write_hit(tmp_path / "hits.jsonl", item)
    assert read_hits(tmp_path / "hits.jsonl") == hits
    assert [path.name for path in tmp_path.iterdir()] == ["hits.jsonl"]


@pytest.mark.parametrize(
    ("item", "clean"),
    [
        (hit(), True),
        (hit(None), False),
        (hit(typed=1), False),
        (hit(replace(CLEAN, lost=1)), False),
        (hit(replace(CLEAN, doubled=1)), False),
        (hit(replace(CLEAN, wrong_verdicts=1)), False),
        (hit(replace(CLEAN, other_rows=1)), False),
        (left(processes=["1 python"]), False),
        (left(files=["x"]), False),
    ],
)
def test_what_is_clean(item: Hit, clean: bool) -> None:
    assert is_clean(item) is clean


def test_a_line_for_each_moment_and_one_for_all() -> None:
    table = as_markdown([hit(), hit(replace(CLEAN, doubled=2)), hit(None, at_s=0.5)]).splitlines()
    assert table[2:] == [
        "| batch, SIGKILL | 0.2 | 2 | 0 | 2 | 0 | 0 | 0 | 0 | requeued 2 |",
        "| batch, SIGKILL | 0.5 | 1 | 0 | 0 | 0 | 1 | 0 | 0 | requeued 1 |",
        "| all | | 3 | 0 | 2 | 0 | 1 | 0 | 0 | requeued 3 |",
    ]


def test_every_count_has_its_column() -> None:
    found = Difference(lost=1, doubled=2, wrong_verdicts=30, other_rows=3, left_files=())
    one = hit(found, typed=4)
    one = replace(one, record=replace(one.record, left_processes=["1 a"] * 5, left_files=["x"] * 60))
    assert as_markdown([one]).splitlines()[-1] == "| all | | 1 | 1 | 2 | 33 | 0 | 4 | 65 | requeued 1 |"


class FakeSweep(Sweep):
    """A sweep whose command is a shell program that submits `num_jobs`, and whose batch script sleeps."""

    def __init__(self, folder: Path, program: str, num_jobs: int = 1, log: str = "") -> None:
        super().__init__(folder, early.SETTINGS_OF_SWEEP)
        self.program, self.num_jobs, self.log = program, num_jobs, log
        self.struck = subprocess.Popen(["sleep", "600"])

    def start_command(self, *_more: str, output: IO[bytes] | int = 0) -> subprocess.Popen[str]:
        assert not isinstance(output, int)
        output.writelines(b"submitted %d (ar): out\n" % number for number in range(7, 7 + self.num_jobs))
        output.flush()
        folder = self.out_dir / ".submitit" / "abc"
        folder.mkdir(parents=True)
        (folder / "7_log.out").write_text(self.log)
        return subprocess.Popen(["sh", "-c", self.program], text=True)

    def pids(self, program: str) -> list[int]:
        return [self.struck.pid] if program == "batch" else []

    def kill_all(self) -> None:
        self.struck.kill()
        self.struck.wait()


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "num_jobs", "restarts", "log", "typed", "way"),
    [
        ("sleep 1", 1, "Restarts=1", "", 0, "requeued"),
        ("sleep 1; exit 1", 1, "Restarts=0", "", 1, "it was not stopped"),
        ("sleep 1", 1, "Restarts=0", "the step is started again", 0, "step started again"),
        ("sleep 1", 2, "Restarts=0", "", 0, "submitted again"),
    ],
)
def test_how_a_struck_sweep_went_on(
    program: str,
    num_jobs: int,
    restarts: str,
    log: str,
    typed: int,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(early, "compare", lambda record, _sweep, _reference: setattr(record, "found", CLEAN))
    monkeypatch.setattr(early, "queue_entries", lambda ids: dict.fromkeys(ids, QueueEntry("RUNNING", "")))
    monkeypatch.setattr(early, "scontrol", lambda *_words: f"JobId=7 {restarts}")
    drill = EarlyDrill(tmp_path, hit(at_s=0.0))
    drill.sweep = sweep = FakeSweep(tmp_path, program, num_jobs, log)
    seen = drill.run(Reference.__new__(Reference))
    assert (len(seen.record.typed), seen.way, seen.record.found) == (typed, way, CLEAN)
    assert sweep.struck.returncode == -signal.SIGKILL


@pytest.mark.process
def test_a_sweep_that_never_ends_is_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "PATIENCE_S", 1.0)
    monkeypatch.setattr(early, "queue_entries", lambda ids: dict.fromkeys(ids, QueueEntry("RUNNING", "")))
    monkeypatch.setattr(early, "scontrol", lambda *_words: "Restarts=0")
    drill = EarlyDrill(tmp_path, hit(None, at_s=0.0))
    drill.sweep = FakeSweep(tmp_path, "sleep 600")
    seen = drill.run(Reference.__new__(Reference))
    assert (seen.record.notes, seen.record.found, is_clean(seen)) == (["HANG"], None, False)


@pytest.mark.parametrize(("found", "status"), [(CLEAN, 0), (replace(CLEAN, lost=1), 1)])
def test_the_status_says_whether_all_were_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Difference, status: int
) -> None:
    monkeypatch.setattr(early, "running_cluster", lambda _settings: nullcontext())
    monkeypatch.setattr(early, "drills", lambda *_: [hit(), hit(found)])
    assert run([]) == status
    assert "| all | | 2 |" in capsys.readouterr().out
