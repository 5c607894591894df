"""Runs benchmarks on one worker in this process: no server, no Slurm; the same samples, scoring and files as a job.

Knows no model: whatever generates is handed in. Prints the reference script's progress and summary lines.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimode.core.errors import GenerationError
from trimode.pipeline.client.answer import REQUEST, Answer, mode_fields
from trimode.pipeline.client.samples import LoadedTask, run_tasks
from trimode.pipeline.console.progress import Progress
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.nfe import NfeRecord, read_run_ledger, summarize
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256
from trimode.pipeline.run_folder.rows import read_output, read_rows
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.pipeline.scoring.verdicts import is_right
from trimode.pipeline.spec import DecodeSpec, JobSpec

SHARED_FIELDS = (
    "request_id",
    "finish_reason",
    "prompt_tokens",
    "forwards",
    "nfe",
    "acceptance_lengths",
    "queue_s",
    "first_token_s",
    "total_s",
)
"""What an Answer and a Generation call by the same name."""


class DirectWorker(Protocol):
    """What is needed of a worker."""

    async def generate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Answers one request; raises GenerationError for a request it refuses."""

    def info(self) -> dict[str, object]:
        """What was loaded."""

    def close(self) -> None:
        """Lets the device go."""


@dataclass(slots=True)
class Counts:
    """Sums over finished samples of one task."""

    done: int = 0
    correct: int = 0
    tokens: int = 0
    nfe: int = 0

    def add(self, correct: bool, record: NfeRecord | None) -> None:
        """Counts one sample; one without a ledger line brings no tokens."""
        self.done += 1
        self.correct += correct
        if record is not None:
            self.tokens += record.completion_tokens
            self.nfe += record.nfe

    def text(self) -> str:
        """`acc=93.78% avg_tok=302.0 avg_nfe=52.1 TPF=5.79`."""
        done = max(self.done, 1)
        tpf = self.tokens / self.nfe if self.nfe else 0.0
        accuracy = 100 * self.correct / done
        return f"acc={accuracy:.2f}% avg_tok={self.tokens / done:.1f} avg_nfe={self.nfe / done:.1f} TPF={tpf:.2f}"


class DirectProgress(Progress):
    """One line per `print_every` samples of the task that runs, samples of earlier calls counted in."""

    def __init__(self, loaded: LoadedTask, paths: RunPaths, print_every: int) -> None:
        super().__init__(loaded.benchmark.name, print)
        self._total = loaded.rows_asked
        self._every = print_every
        self._started = time.perf_counter()
        self.counts = Counts()
        ledger = read_run_ledger(paths.run_dir)
        (seed,) = loaded.task.seeds
        rows = read_rows(paths, loaded.benchmark.name, seed)
        for position in sorted(loaded.finished[seed]):
            if position < loaded.rows_asked:
                record = ledger.get((loaded.benchmark.name, seed, position))
                self.counts.add(is_right(loaded.benchmark, rows[position]), record)

    def add(self, benchmark: str, correct: bool, record: NfeRecord) -> None:
        """Counts one sample of this call, and prints where it is one to print after."""
        del benchmark
        self.counts.add(correct, record)
        if self.counts.done % self._every == 0 or self.counts.done == self._total:
            self.print_line()

    def finish(self, benchmark: str) -> None:
        """The summary comes later."""

    def print_line(self) -> None:
        """`[  50/1319] acc=... (12.3s)`."""
        seconds = time.perf_counter() - self._started
        width = len(str(self._total))
        print(f"[{self.counts.done:>{width}}/{self._total}] {self.counts.text()} ({seconds:.1f}s)", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One line of the summary; fields as the reference script writes them to its JSON, then ours."""

    task: str
    num_entries: int
    accuracy: float
    """Percent, by the benchmark's own metric."""
    avg_tokens: float
    avg_nfe: float
    tpf: float
    """Sum of tokens / sum of NFE."""
    elapsed_seconds: float
    """Of this call."""
    num_errors: int
    """Samples without an answer, scored as wrong."""
    samples: str
    """File with one line per sample."""


async def run_task(
    place: tuple[JobSpec, RunPaths], loaded: LoadedTask, worker: DirectWorker | None, print_every: int
) -> TaskResult:
    """Runs what is left of one task (one seed) and sums up all of it; without a worker nothing may be left.

    Raises ConfigError when the folder holds results of other weights, prompts or data.
    """
    spec, paths = place
    name = loaded.benchmark.name
    (seed,) = loaded.task.seeds
    manifest = Manifest(spec, paths)
    facts = {"sha256": data_sha256(loaded.all_rows), "num_rows": len(loaded.all_rows)}
    manifest.open(prompts={name: loaded.benchmark.prompt_sha256}, data={name: facts})
    started = time.perf_counter()
    status = "failed"
    try:
        if worker is not None:
            manifest.add_workers([worker.info()])
        progress = DirectProgress(loaded, paths, print_every)
        await run_tasks(spec, paths, [loaded], ask_worker(worker, spec.decode), progress)
        status = "completed"
    finally:
        manifest.close(status)
    rows = read_output(paths, name, seed)[: loaded.rows_asked]
    ledger = read_run_ledger(paths.run_dir)
    records = [record for position in range(len(rows)) if (record := ledger.get((name, seed, position)))]
    figures = summarize(records)
    metrics = compute_metrics(loaded.benchmark, [rows])[name]["pass@1"]
    return TaskResult(
        task=name,
        num_entries=len(rows),
        accuracy=round(float(metrics[loaded.benchmark.metric]), 4),
        avg_tokens=round(sum(record.completion_tokens for record in records) / len(rows), 2),
        avg_nfe=figures["average_nfe"] or 0.0,
        tpf=figures["tpf"] or 0.0,
        elapsed_seconds=round(time.perf_counter() - started, 2),
        num_errors=sum(record.error is not None for record in records),
        samples=str(paths.output(name, seed)),
    )


def ask_worker(worker: DirectWorker | None, decode: DecodeSpec) -> Callable[[str, str, int], Awaitable[Answer]]:
    """How a sample is asked without HTTP; a request the worker refuses is that sample's error."""

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
        except GenerationError as error:
            return Answer(
                request_id=name, started_at=started, ended_at=time.time(), error=error.message, error_kind=REQUEST
            )
        return Answer(
            text=generation["text"] or "",
            completion_tokens=len(generation["token_ids"]),
            started_at=started,
            ended_at=time.time(),
            **{key: generation[key] for key in SHARED_FIELDS},
        )

    return ask


def print_result(result: TaskResult) -> None:
    """The line that ends a task."""
    errors = f"  {result.num_errors} without answer" if result.num_errors else ""
    print(
        f"✓ {result.task}: acc={result.accuracy:.2f}% ({result.num_entries} samples) avg_tok={result.avg_tokens:.1f} "
        f"avg_nfe={result.avg_nfe:.1f} TPF={result.tpf:.2f} ({result.elapsed_seconds:.1f}s){errors}",
        flush=True,
    )


def print_summary(results: Sequence[TaskResult]) -> None:
    """The table at the end."""
    width = max(len("task"), *(len(result.task) for result in results))
    print(f"\n{'task':<{width}}  {'acc%':>7}  {'avg_tok':>8}  {'avg_nfe':>8}  {'TPF':>6}")
    for result in results:
        print(
            f"{result.task:<{width}}  {result.accuracy:>7.2f}  {result.avg_tokens:>8.1f}  {result.avg_nfe:>8.1f}  "
            f"{result.tpf:>6.2f}",
            flush=True,
        )
