"""Runs one task on a worker in this process, with the same samples, scoring and files as a job.

Prints the progress and summary lines of the public reference's script.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from trimode.core.errors import GenerationError
from trimode.core.worker import Worker
from trimode.pipeline.client.answer import REQUEST, Answer, mode_fields
from trimode.pipeline.client.recorded import recorded_run
from trimode.pipeline.client.samples import run_tasks
from trimode.pipeline.client.tasks import LoadedTask
from trimode.pipeline.console.progress import Points, Progress, add_points, mean_ratio
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.nfe import NfeRecord, read_run_ledger, summarize
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import SCORING_ERROR, read_output, read_rows
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.pipeline.scoring.verdicts import row_points
from trimode.pipeline.spec import DecodeSpec

INPUT_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
"""What code raises for an input that it was not made for. It costs that sample; a lost device costs the run."""


@dataclass(slots=True)
class Counts:
    """Sums over finished samples of one task."""

    done: int = 0
    points: list[float] = field(default_factory=list)
    possible: list[float] = field(default_factory=list)
    """Scored and possible points in the task's metric, one sum per column."""
    tokens: int = 0
    nfe: int = 0

    def add(self, points: Points, record: NfeRecord | None) -> None:
        """Counts one sample. One without a ledger line adds no tokens."""
        self.done += 1
        add_points(self.points, points[0])
        add_points(self.possible, points[1])
        if record is not None:
            self.tokens += record.cost.completion_tokens
            self.nfe += record.cost.nfe or 0

    def text(self) -> str:
        """Returns `acc=93.78% avg_tok=302.0 avg_nfe=52.1 TPF=5.79`."""
        done = max(self.done, 1)
        tpf = self.tokens / self.nfe if self.nfe else 0.0
        accuracy = 100 * mean_ratio(self.points, self.possible)
        return f"acc={accuracy:.2f}% avg_tok={self.tokens / done:.1f} avg_nfe={self.nfe / done:.1f} TPF={tpf:.2f}"


class TaskProgressLines(Progress):
    """Prints a line after every `print_every` samples of one task. Samples of earlier calls count too."""

    def __init__(self, loaded: LoadedTask, paths: RunPaths, print_every: int) -> None:
        super().__init__(loaded.benchmark.name, print)
        self._total = loaded.rows_asked
        self._every = print_every
        self._started = time.perf_counter()
        self.counts = Counts()
        ledger = read_run_ledger(paths.run_dir)
        (seed,) = loaded.task.seeds
        rows = read_rows(paths, loaded.benchmark.name, seed)
        for position in sorted(loaded.finished[seed] - loaded.unscored.get(seed, set())):
            if position < loaded.rows_asked:
                record = ledger.get((loaded.benchmark.name, seed, position))
                self.counts.add(row_points(loaded.benchmark, rows[position]), record)

    def add(self, benchmark: str, points: Points, record: NfeRecord | None, unscored: bool = False) -> None:
        """Counts one sample of this call and prints a line if it is due."""
        del benchmark, unscored
        self.counts.add(points, record)
        if self.counts.done % self._every == 0 or self.counts.done == self._total:
            self.print_line()

    def answered(self, benchmark: str, asked_at: float, answered_at: float) -> None:
        """Does nothing: the lines name no speed of workers."""

    def finish(self, benchmark: str) -> None:
        """Does nothing: `print_result` prints the end."""

    def print_line(self) -> None:
        """Prints `[  50/1319] acc=... (12.3s)`."""
        seconds = time.perf_counter() - self._started
        width = len(str(self._total))
        print(f"[{self.counts.done:>{width}}/{self._total}] {self.counts.text()} ({seconds:.1f}s)", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """One line of the summary: the fields that the public reference's script writes to its JSON, then ours."""

    task: str
    num_entries: int
    accuracy: float
    """Percent, in the benchmark's own metric."""
    avg_tokens: float
    avg_nfe: float
    tpf: float
    """Sum of tokens / sum of NFE."""
    elapsed_seconds: float
    """Wall-clock seconds of this call."""
    failed: int
    """Samples without an answer, scored as wrong. Every number of this line is over all samples, these too."""
    unscored: int
    """Answers that could not be scored, counted as wrong. The same command scores them again."""
    samples: str
    """File with one line per sample."""


async def run_task(folder: RunFolder, loaded: LoadedTask, worker: Worker | None, print_every: int) -> TaskSummary:
    """Runs the unfinished samples of one task (one seed) and returns the summary of all its samples.

    `worker` may be None if no sample is left. Raises ConfigError if the folder holds results of other weights, prompts
    or data.
    """
    spec, paths = folder.spec, folder.paths
    name = loaded.benchmark.name
    (seed,) = loaded.task.seeds
    with recorded_run(spec, paths, [loaded]) as manifest:
        started = time.perf_counter()
        if worker is not None:
            manifest.add_workers([worker.info()])
        progress = TaskProgressLines(loaded, paths, print_every)
        await run_tasks(folder, [loaded], ask_worker(worker, spec.decode), progress)
    rows = read_output(paths, name, seed)[: loaded.rows_asked]
    ledger = read_run_ledger(paths.run_dir)
    records = [record for position in range(len(rows)) if (record := ledger.get((name, seed, position)))]
    totals = summarize(records)
    metrics = compute_metrics(loaded.benchmark, [rows])[name]["pass@1"]
    return TaskSummary(
        task=name,
        num_entries=len(rows),
        accuracy=round(float(metrics[loaded.benchmark.metric]), 4),
        avg_tokens=round(sum(record.cost.completion_tokens for record in records) / len(rows), 2),
        avg_nfe=totals["average_nfe"] or 0.0,
        tpf=totals["tpf"] or 0.0,
        elapsed_seconds=round(time.perf_counter() - started, 2),
        failed=sum(bool(row.get("error")) for row in rows),
        unscored=sum(SCORING_ERROR in row for row in rows),
        samples=str(paths.output(name, seed)),
    )


def ask_worker(worker: Worker | None, decode: DecodeSpec) -> Callable[[str, str, int], Awaitable[Answer]]:
    """Returns the function that asks the worker for one sample. A refused request becomes that sample's error."""

    async def ask(name: str, prompt: str, seed: int) -> Answer:
        fields = {
            "request_id": name,
            "messages": [{"role": "user", "content": prompt}],
            "max_new_tokens": decode.max_new_tokens,
            "temperature": decode.temperature,
            "top_p": decode.top_p,
            "seed": seed,
            "enable_thinking": decode.enable_thinking,
            **mode_fields(decode),
        }
        assert worker is not None
        started = time.time()
        try:
            generation = await worker.generate(fields)
        except (GenerationError, *INPUT_ERRORS) as error:
            reason = error.message if isinstance(error, GenerationError) else f"{type(error).__name__}: {error}"
            return Answer(request_id=name, started_at=started, ended_at=time.time(), error=reason, error_kind=REQUEST)
        return Answer(
            request_id=generation.request_id,
            text=generation.text or "",
            finish_reason=generation.finish_reason,
            cost=generation.cost,
            started_at=started,
            ended_at=time.time(),
        )

    return ask


def print_result(result: TaskSummary) -> None:
    """Prints the closing line of a task."""
    errors = f"  {result.failed} without answer" if result.failed else ""
    errors += f"  {result.unscored} not scored" if result.unscored else ""
    print(
        f"✓ {result.task}: acc={result.accuracy:.2f}% ({result.num_entries} samples) avg_tok={result.avg_tokens:.1f} "
        f"avg_nfe={result.avg_nfe:.1f} TPF={result.tpf:.2f} ({result.elapsed_seconds:.1f}s){errors}",
        flush=True,
    )


def print_summary(results: Sequence[TaskSummary]) -> None:
    """Prints the table of all tasks."""
    width = max(len("task"), *(len(result.task) for result in results))
    print(f"\n{'task':<{width}}  {'acc%':>7}  {'avg_tok':>8}  {'avg_nfe':>8}  {'TPF':>6}  {'failed':>6}")
    for result in results:
        print(
            f"{result.task:<{width}}  {result.accuracy:>7.2f}  {result.avg_tokens:>8.1f}  {result.avg_nfe:>8.1f}  "
            f"{result.tpf:>6.2f}  {result.failed:>6}",
            flush=True,
        )
