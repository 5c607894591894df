"""Shows how far a job is: a bar per benchmark on a terminal, plain lines elsewhere, and a small file others can read.

Each bar has done/total, accuracy so far, TPF and the time left. Knows nothing of requests, scoring or result files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from trimode.pipeline.run_folder.nfe import NfeRecord

LINE_EVERY_S = 15.0
"""Seconds between two plain lines of one benchmark."""
SNAPSHOT_EVERY_S = 0.5


@dataclass(slots=True)
class TaskProgress:
    """Counts of one benchmark so far."""

    total: int
    """Samples asked, over all seeds."""
    done: int = 0
    """Finished ones, those of earlier runs included."""
    scored: int = 0
    """Finished in this run."""
    correct: int = 0
    failed: int = 0
    tokens: int = 0
    nfe: int = 0
    seconds: float = 0.0
    """From this run's first to its latest sample."""
    started_at: float = field(default=0.0)
    """Unix time of the first sample of this run; 0 = none yet."""

    def text(self) -> str:
        """`17/200  acc 94.1%  TPF 3.52  ETA 1m 20s` (accuracy, TPF and ETA of this run's samples)."""
        parts = [f"{self.done}/{self.total}", *self.figures()]
        return "  ".join(parts)

    def figures(self) -> list[str]:
        """What follows done/total."""
        parts = []
        if self.scored:
            parts.append(f"acc {100 * self.correct / self.scored:.1f}%")
        if self.nfe:
            parts.append(f"TPF {self.tokens / self.nfe:.2f}")
        if self.failed:
            parts.append(f"failed {self.failed}")
        if self.scored and self.done < self.total:
            parts.append(f"ETA {duration(self.seconds / self.scored * (self.total - self.done))}")
        return parts


def duration(seconds: float) -> str:
    """`45s`, `1m 20s` or `2h 5m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    return f"{whole // 3600}h {whole % 3600 // 60}m"


class Progress:
    """Counts samples of a job and shows them; used as a context manager."""

    def __init__(
        self, name: str, show: Callable[[str], None], snapshot: Path | None = None, bars: Bars | None = None
    ) -> None:
        """`show` takes the plain lines, `snapshot` is the file for others, `bars` are on this process's terminal."""
        self._name = name
        self._show = show
        self._snapshot = snapshot
        self._bars = bars
        if snapshot is not None:
            snapshot.parent.mkdir(parents=True, exist_ok=True)
        self._tasks: dict[str, TaskProgress] = {}
        self._lines_at: dict[str, float] = {}
        self._snapshot_at = 0.0

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._write_snapshot()
        if self._bars is not None:
            self._bars.stop()

    def begin(self, benchmark: str, total: int, done: int) -> None:
        """Announces a benchmark; `done` of its samples were finished before."""
        self._tasks[benchmark] = TaskProgress(total=total, done=done)
        self._line(benchmark, "" if done == 0 else " (resumed)" if done < total else " (finished before)")
        self._write_snapshot()

    def add(self, benchmark: str, correct: bool, record: NfeRecord) -> None:
        """Counts one scored sample."""
        task = self._tasks[benchmark]
        now = time.time()
        task.started_at = task.started_at or now - (record.total_s - record.queue_s)  # the wait was for others
        task.seconds = now - task.started_at
        task.done += 1
        task.scored += 1
        task.correct += correct
        task.failed += record.error is not None
        task.tokens += record.completion_tokens
        task.nfe += record.nfe
        if now - self._lines_at.get(benchmark, 0.0) >= LINE_EVERY_S and task.done < task.total:
            self._line(benchmark)
        if now - self._snapshot_at >= SNAPSHOT_EVERY_S:
            self._write_snapshot()

    def finish(self, benchmark: str) -> None:
        """Shows the last state of a benchmark whose metrics are written."""
        if self._tasks[benchmark].scored:
            self._line(benchmark, "  done")
        self._write_snapshot()

    def _line(self, benchmark: str, suffix: str = "") -> None:
        self._lines_at[benchmark] = time.time()
        self._show(f"[{self._name}] {benchmark}: {self._tasks[benchmark].text()}{suffix}")

    def _write_snapshot(self) -> None:
        """Renamed into place but not synced: losing one costs nothing."""
        self._snapshot_at = time.time()
        if self._bars is not None:
            self._bars.update(self._name, self._tasks)
        if self._snapshot is None:
            return
        beside = self._snapshot.with_suffix(".tmp")
        beside.write_text(json.dumps({name: asdict(task) for name, task in self._tasks.items()}), encoding="utf-8")
        beside.replace(self._snapshot)


class Bars:
    """Bars on a terminal, one per job and benchmark, fed from counts or from the files that jobs write."""

    def __init__(self, console: Console | None = None) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._ids: dict[tuple[str, str], object] = {}

    def start(self) -> None:
        """Takes the lower lines of the terminal."""
        self._bars.start()

    def stop(self) -> None:
        """Leaves the last state standing."""
        self._bars.stop()

    def update(self, job: str, tasks: dict[str, TaskProgress]) -> None:
        """Shows the counts of one job's benchmarks."""
        for benchmark, task in tasks.items():
            key = (job, benchmark)
            if key not in self._ids:
                self._ids[key] = self._bars.add_task(f"{job} {benchmark}", total=task.total, figures="")
            bar: int = self._ids[key]  # type: ignore[assignment]
            self._bars.update(bar, completed=task.done, total=task.total, figures="  ".join(task.figures()))  # type: ignore[arg-type]


def read_snapshot(path: Path) -> dict[str, TaskProgress]:
    """The counts a job wrote last, by benchmark; empty when it has written none."""
    if not path.exists():
        return {}
    return {name: TaskProgress(**task) for name, task in json.loads(path.read_text(encoding="utf-8")).items()}
