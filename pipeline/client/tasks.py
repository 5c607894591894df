"""The benchmarks of a job with their data, and what is left to do in each."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.client.record import reply_keys
from trimode.pipeline.data import load_rows
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.spec import TaskSpec

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedTask:
    """A benchmark of a job with its data and the positions that are finished."""

    task: TaskSpec
    benchmark: Benchmark
    all_rows: list[Row]
    """The whole split; its hash goes into the manifest."""
    rows_asked: int
    finished: dict[int, set[int]] = field(default_factory=dict)
    """Per seed, the positions that need not be asked."""
    unscored: dict[int, set[int]] = field(default_factory=dict)
    """Per seed, the finished positions of this job whose answers must be scored again."""

    @property
    def num_left(self) -> int:
        """Number of samples still to ask, over all seeds."""
        return sum(position not in self.finished[seed] for seed in self.task.seeds for position in self.positions)

    @property
    def num_done(self) -> int:
        """Number of samples that have an answer and a verdict, over all seeds."""
        total = len(self.positions) * len(self.task.seeds)
        return total - self.num_left - sum(map(len, self.unscored.values()))

    @property
    def positions(self) -> range:
        """The rows this job answers."""
        return self.task.positions(self.rows_asked)


def load_tasks(folder: RunFolder) -> list[LoadedTask]:
    """Returns the benchmarks of a job with their data and finished positions. Raises ConfigError if data is missing."""
    spec = folder.spec
    loaded = []
    for task in spec.tasks:
        benchmark = load_benchmark(task.benchmark)
        rows = load_rows(benchmark, Path(spec.data_dir) if spec.data_dir else None)
        if not rows:
            raise ConfigError(f"data of {task.benchmark}: no rows; needed: at least one")
        if taken := sorted(reply_keys(benchmark) & {key for row in rows for key in row}):
            log.warning("%s: the data's fields %s are left out: only a reply sets them", benchmark.name, taken)
        asked = len(rows) if task.limit is None else min(task.limit, len(rows))
        item = LoadedTask(task=task, benchmark=benchmark, all_rows=rows, rows_asked=asked)
        item.finished = {seed: folder.finished(task.benchmark, seed) for seed in task.seeds}
        share = set(item.positions)
        item.unscored = {seed: folder.unscored(task.benchmark, seed) & share for seed in task.seeds}
        loaded.append(item)
    return loaded
