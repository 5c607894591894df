"""The run folder as one job sees it: every row file is read once, when the job opens the folder."""

from __future__ import annotations

from trimode.pipeline.run_folder.lease import Lease
from trimode.pipeline.run_folder.ledger import Ledger
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import is_merged
from trimode.pipeline.run_folder.rows import read_seed
from trimode.pipeline.run_folder.store import SeedStore
from trimode.pipeline.spec import JobSpec, TaskSpec


class RunFolder:
    """What one job's seeds held when it opened the folder, and the files it writes: a store per seed and the ledger."""

    def __init__(self, spec: JobSpec, paths: RunPaths, lease: Lease | None = None) -> None:
        """Reads the row files. With a lease, nothing is written once another run of the job holds it."""
        self.spec = spec
        self.paths = paths
        self.lease = lease
        self.ledger = Ledger(spec, paths, lease)
        self._seeds = {
            (task.benchmark, seed): read_seed(paths, task.benchmark, seed) for task in spec.tasks for seed in task.seeds
        }
        self._with_metrics: set[str] = set()

    def finished(self, benchmark: str, seed: int) -> set[int]:
        """Positions of a seed that need not be asked again."""
        return self._seeds[benchmark, seed].finished

    def unscored(self, benchmark: str, seed: int) -> set[int]:
        """Finished positions of a seed whose rows could not be scored."""
        return self._seeds[benchmark, seed].unscored

    def store(self, task: TaskSpec, seed: int) -> SeedStore:
        """A store for the rows of one seed."""
        return SeedStore(self.paths, task.benchmark, seed, task.chunk, self.ledger, self.lease)

    def open_ledger(self) -> None:
        """Makes the ledger agree with the rows and opens it for appending."""
        self.ledger.open(self._seeds)

    def is_merged(self, task: TaskSpec, rows_asked: int) -> bool:
        """True if the finished files hold all rows asked; call it once this job has finished every seed of the task.

        Without chunks finishing a seed was just that, so only a shared benchmark is read.
        """
        return task.chunk is None or is_merged(self.paths, task, rows_asked)

    def note_metrics(self, benchmark: str) -> None:
        """Notes that this job has written the benchmark's metrics.json."""
        self._with_metrics.add(benchmark)

    def has_metrics(self, task: TaskSpec) -> bool:
        """True if metrics.json must be there: this job wrote it, or shares the benchmark with no other job."""
        return task.chunk is None or task.benchmark in self._with_metrics
