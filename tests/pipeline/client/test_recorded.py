"""The times of a run that its manifest keeps."""

from __future__ import annotations

from trimode.pipeline.client.recorded import measured
from trimode.pipeline.console.progress import TaskProgress


def task(asked_at: float, answered_at: float, scored: int = 4) -> TaskProgress:
    return TaskProgress(total=10, scored=scored, worked_s=2.0, asked_at=asked_at, answered_at=answered_at)


def test_start_up_serving_and_finish() -> None:
    snapshot = {"a": task(110.0, 130.0), "b": task(112.0, 140.0)}
    assert measured(snapshot, began=105.0, process=(100.0, 143.0)) == {
        "startup_s": 10.0,
        "serving_s": 30.0,
        "finish_s": 3.0,
        "tasks": {"a": {"samples": 4, "worked_s": 2.0}, "b": {"samples": 4, "worked_s": 2.0}},
    }


def test_what_an_earlier_run_wrote_down_does_not_count() -> None:
    assert measured({"a": task(90.0, 95.0), "b": task(110.0, 120.0, scored=0)}, 105.0, (100.0, 143.0)) is None
