"""What progress says: figures, plain lines, bars and the file for others."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from trimode.core.protocol import Cost
from trimode.pipeline.console import progress as progress_module
from trimode.pipeline.console.progress import Bars, Progress, TaskProgress, duration, read_snapshot
from trimode.pipeline.run_folder.nfe import NfeRecord

RIGHT, WRONG = ((1.0,), (1.0,)), ((0.0,), (1.0,))


def record(tokens: int = 30, nfe: int = 10, error: str | None = None) -> NfeRecord:
    return NfeRecord(
        request_id="r",
        benchmark="gsm8k",
        sample_id=0,
        seed=0,
        mode="ar",
        lora=False,
        finish_reason="stop",
        cost=Cost(prompt_tokens=1, completion_tokens=tokens, nfe=nfe),
        error=error,
    )


def test_text_has_done_accuracy_tpf_and_time_left() -> None:
    task = TaskProgress(total=100, done=50, scored=10, points=[9.0], possible=[10.0], tokens=300, nfe=100, seconds=20.0)
    assert task.text() == "50/100  acc 90.0%  TPF 3.00  ETA 1m 40s"


def test_text_before_the_first_sample_claims_nothing() -> None:
    assert TaskProgress(total=100).text() == "0/100"


def test_failed_samples_are_counted() -> None:
    assert "failed 2" in TaskProgress(total=9, done=2, scored=2, failed=2).text()


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (4.4, 80, 7500)] == ["4s", "1m 20s", "2h 5m"]


def test_lines_name_start_and_end(tmp_path: Path) -> None:
    lines: list[str] = []
    with Progress("ar", lines.append, tmp_path / "sub" / "progress.json") as progress:
        progress.begin("gsm8k", total=3, done=1)
        progress.add("gsm8k", RIGHT, record())
        progress.add("gsm8k", WRONG, record())
        progress.finish("gsm8k")
    assert lines[0] == "[ar] gsm8k: 1/3 (resumed)"
    assert lines[-1] == "[ar] gsm8k: 3/3  acc 50.0%  TPF 3.00  done"


def test_snapshot_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with Progress("ar", lambda _line: None, path) as progress:
        progress.begin("gsm8k", total=2, done=0)
        progress.add("gsm8k", RIGHT, record(error="x", nfe=0, tokens=0), unscored=True)
    task = read_snapshot(path)["gsm8k"]
    assert (task.done, task.total, task.points, task.failed, task.unscored) == (1, 2, [1.0], 1, 1)


def test_no_snapshot_is_no_progress(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "none") == {}


def test_bars_show_benchmark_and_figures() -> None:
    screen = io.StringIO()
    bars = Bars(Console(file=screen, force_terminal=True, width=120))
    bars.start()
    bars.update(
        "ar", {"gsm8k": TaskProgress(total=10, done=5, scored=5, points=[4.0], possible=[5.0], tokens=30, nfe=10)}
    )
    bars.stop()
    shown = screen.getvalue()
    assert "ar gsm8k" in shown
    assert "5/10" in shown
    assert "acc 80.0%" in shown
    assert "TPF 3.00" in shown


def test_the_accuracy_is_the_metrics_mean_over_its_columns() -> None:
    progress = Progress("ar", lambda _line: None)
    progress.begin("ifeval", total=2, done=0)
    progress.add("ifeval", ((1.0, 2.0), (1.0, 3.0)), record())
    progress.add("ifeval", ((0.0, 0.0), (1.0, 1.0)), record())
    assert progress._tasks["ifeval"].accuracy == (1 / 2 + 2 / 4) / 2


def test_a_sample_without_a_ledger_line_adds_no_tokens() -> None:
    progress = Progress("ar", lambda _line: None)
    progress.begin("gsm8k", total=1, done=0)
    progress.add("gsm8k", RIGHT, None)
    assert (progress._tasks["gsm8k"].done, progress._tasks["gsm8k"].tokens) == (1, 0)


def test_the_file_of_another_release_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text('{"gsm8k": {"total": 3, "correct": 2}}')
    assert read_snapshot(path) == {"gsm8k": TaskProgress(total=3)}


def test_the_time_of_the_workers_follows_from_requests_and_not_from_verdicts() -> None:
    progress = Progress("job", lambda _line: None)
    progress.begin("demo-math", total=3, done=0)
    for asked, answered in ((10.0, 12.0), (9.0, 11.0), (11.0, 14.0)):
        progress.answered("demo-math", asked, answered)
    task = progress._tasks["demo-math"]
    assert (task.asked_at, task.answered_at) == (9.0, 14.0)


@pytest.mark.parametrize(("here", "writes"), [(False, 5), (True, 21)])
def test_the_file_is_written_at_most_every_five_seconds_and_more_often_for_bars_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool, writes: int
) -> None:
    path, now = tmp_path / "progress.json", [1000.0]
    monkeypatch.setattr(progress_module.time, "time", lambda: now[0])
    seen: list[tuple[int, int]] = []
    with Progress("ar", lambda _line: None, path, watched_here=here) as progress:
        progress.begin("gsm8k", total=1000, done=0)
        for _ in range(101):  # ten samples a second for ten seconds, then half a second
            now[0] += 0.1
            progress.add("gsm8k", RIGHT, record())
            seen.append((path.stat().st_ino, path.stat().st_mtime_ns))
    assert len(set(seen)) <= writes
    before = path.stat().st_mtime_ns
    progress._write_snapshot()
    assert path.stat().st_mtime_ns == before, "nothing has changed"
