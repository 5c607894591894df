"""Shows how far a job is: bars on a terminal, plain lines elsewhere, and a small file for other processes.

Each benchmark has done/total, accuracy so far, TPF (tokens per forward) and the time left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from trimode.core.protocol import NO_COST
from trimode.pipeline.run_folder.nfe import NfeRecord

Points = tuple[Sequence[float], Sequence[float]]
"""One sample's scored and possible points in its benchmark's metric, one entry per column of the metric."""

LINE_EVERY_S = 15.0
"""Seconds between two plain lines of one benchmark."""
BARS_EVERY_S = 0.5
"""Seconds between two updates of bars."""
SNAPSHOT_EVERY_S = 5.0
"""Seconds between two writes of the file for other processes, which lies on a shared disk."""


@dataclass(slots=True)
class TaskProgress:
    """Counts of one benchmark so far."""

    total: int
    """Samples asked for, over all seeds."""
    done: int = 0
    """Samples that are finished, in this run or an earlier one."""
    scored: int = 0
    """Samples finished in this run."""
    points: list[float] = field(default_factory=list)
    """Points of this run's samples in the benchmark's metric, one sum per column of the metric."""
    possible: list[float] = field(default_factory=list)
    """Most points that these samples could have, per column."""
    failed: int = 0
    """Samples of this run without an answer."""
    unscored: int = 0
    """Answers of this run that could not be scored."""
    tokens: int = 0
    nfe: int = 0
    seconds: float = 0.0
    """Seconds from this run's first sample to its latest."""
    asked_at: float = 0.0
    """Unix time when the first of this run's samples was sent; 0 = none yet."""
    answered_at: float = 0.0
    """Unix time of this run's latest answer. The verdict comes later."""
    worked_s: float = 0.0
    """Seconds that workers spent on this run's samples, added up: without their time in the queue."""
    started_at: float = field(default=0.0)
    """Unix time of this run's first sample; 0 = none yet."""

    @property
    def accuracy(self) -> float:
        """The benchmark's metric over this run's samples, as a fraction: the number that a report will show."""
        return mean_ratio(self.points, self.possible)

    def text(self) -> str:
        """Returns `17/200  acc 94.1%  TPF 3.52  ETA 1m 20s`; all but done/total are of this run's samples."""
        parts = [f"{self.done}/{self.total}", *self.stats()]
        return "  ".join(parts)

    def stats(self) -> list[str]:
        """Returns what follows done/total: accuracy, TPF, failures and time left, as far as they are known."""
        parts = []
        if self.scored:
            parts.append(f"acc {100 * self.accuracy:.1f}%")
        if self.nfe:
            parts.append(f"TPF {self.tokens / self.nfe:.2f}")
        if self.failed:
            parts.append(f"failed {self.failed}")
        if self.unscored:
            parts.append(f"unscored {self.unscored}")
        if self.scored and self.done < self.total:
            parts.append(f"ETA {duration(self.seconds / self.scored * (self.total - self.done))}")
        return parts


def add_points(sums: list[float], values: Sequence[float]) -> None:
    """Adds the points of one sample to `sums`, which is empty before the first sample."""
    sums[:] = [a + b for a, b in zip(sums or [0.0] * len(values), values, strict=True)]


def mean_ratio(points: Sequence[float], possible: Sequence[float]) -> float:
    """Returns the mean over columns of points / possible; 0 for columns where no points are possible."""
    ratios = [a / b if b else 0.0 for a, b in zip(points, possible, strict=True)]
    return sum(ratios) / len(ratios) if ratios else 0.0


def duration(seconds: float) -> str:
    """Returns `45s`, `1m 20s` or `2h 5m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    return f"{whole // 3600}h {whole % 3600 // 60}m"


class Progress:
    """A context manager that counts the samples of a job and shows the counts."""

    def __init__(
        self,
        name: str,
        show: Callable[[str], None],
        snapshot: Path | None = None,
        bars: Bars | None = None,
        watched_here: bool = False,
    ) -> None:
        """`show` gets the plain lines, `snapshot` is the file for other processes, `bars` stand on the terminal.

        `watched_here`: a process of this machine draws bars from the file, which is then written as often as bars.
        """
        self._name = name
        self._show = show
        self._snapshot = snapshot
        self._bars = bars
        if snapshot is not None:
            snapshot.parent.mkdir(parents=True, exist_ok=True)
        self._tasks: dict[str, TaskProgress] = {}
        self._lines_at: dict[str, float] = {}
        self._snapshot_every_s = BARS_EVERY_S if watched_here else SNAPSHOT_EVERY_S
        self._snapshot_at = 0.0
        self._written = ""
        self._bars_at = 0.0

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._write_snapshot()
        if self._bars is not None:
            self._bars.stop()

    def begin(self, benchmark: str, total: int, done: int) -> None:
        """Adds a benchmark. `done` of its samples were finished by earlier runs."""
        self._tasks[benchmark] = TaskProgress(total=total, done=done)
        self._line(benchmark, "" if done == 0 else " (resumed)" if done < total else " (finished before)")
        self._write_snapshot()

    def add(self, benchmark: str, points: Points, record: NfeRecord | None, unscored: bool = False) -> None:
        """Counts one scored sample. One without a ledger line adds no tokens."""
        task = self._tasks[benchmark]
        now = time.time()
        cost = NO_COST if record is None else record.cost
        worked_s = cost.total_s - cost.queue_s  # in the queue it waited for other requests
        task.started_at = task.started_at or now - worked_s
        task.seconds = now - task.started_at
        task.done += 1
        task.scored += 1
        add_points(task.points, points[0])
        add_points(task.possible, points[1])
        task.failed += record is not None and record.error is not None
        task.unscored += unscored
        task.worked_s += worked_s
        task.tokens += cost.completion_tokens
        task.nfe += cost.nfe or 0
        if now - self._lines_at.get(benchmark, 0.0) >= LINE_EVERY_S and task.done < task.total:
            self._line(benchmark)
        if now - self._bars_at >= BARS_EVERY_S:
            self._update_bars()
        if now - self._snapshot_at >= self._snapshot_every_s:
            self._write_snapshot()

    def answered(self, benchmark: str, asked_at: float, answered_at: float) -> None:
        """Notes when a sample was sent and when its answer came, which the speed of the workers follows from."""
        task = self._tasks[benchmark]
        task.asked_at = min(asked_at, task.asked_at or asked_at)
        task.answered_at = max(answered_at, task.answered_at)

    def finish(self, benchmark: str) -> None:
        """Shows the final counts of a benchmark whose metrics are written."""
        if self._tasks[benchmark].scored:
            self._line(benchmark, "  done")
        self._write_snapshot()

    def _line(self, benchmark: str, suffix: str = "") -> None:
        self._lines_at[benchmark] = time.time()
        self._show(f"[{self._name}] {benchmark}: {self._tasks[benchmark].text()}{suffix}")

    def _update_bars(self) -> None:
        self._bars_at = time.time()
        if self._bars is not None:
            self._bars.update(self._name, self._tasks)

    def _write_snapshot(self) -> None:
        """Updates the bars, and replaces the file if its content has changed.

        It is not synced to disk, because losing one costs nothing.
        """
        self._snapshot_at = time.time()
        self._update_bars()
        text = json.dumps({name: asdict(task) for name, task in self._tasks.items()})
        if self._snapshot is None or text == self._written:
            return
        beside = self._snapshot.with_suffix(".tmp")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._snapshot)
        self._written = text


class Bars:
    """Bars on a terminal, one per job and benchmark."""

    def __init__(self, console: Console | None = None) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[stats]}"),
            console=console,
        )
        self._ids: dict[tuple[str, str], object] = {}

    def start(self) -> None:
        """Draws the bars on the last lines of the terminal."""
        self._bars.start()

    def stop(self) -> None:
        """Stops drawing. The last state stays on the terminal."""
        self._bars.stop()

    def update(self, job: str, tasks: dict[str, TaskProgress]) -> None:
        """Shows the counts of one job's benchmarks."""
        for benchmark, task in tasks.items():
            key = (job, benchmark)
            if key not in self._ids:
                self._ids[key] = self._bars.add_task(f"{job} {benchmark}", total=task.total, stats="")
            bar: int = self._ids[key]  # type: ignore[assignment]
            self._bars.update(bar, completed=task.done, total=task.total, stats="  ".join(task.stats()))  # type: ignore[arg-type]


def read_snapshot(path: Path) -> dict[str, TaskProgress]:
    """Returns the counts a job wrote last, by benchmark; empty if it has written none."""
    if not path.exists():
        return {}
    known = {item.name for item in fields(TaskProgress)}  # the file of another release may have other fields
    return {
        name: TaskProgress(**{key: value for key, value in task.items() if key in known})
        for name, task in json.loads(path.read_text(encoding="utf-8")).items()
    }
