"""Runs the benchmarks of one job: asks every unfinished sample, scores and stores it, and writes each metrics.json.

Samples of all benchmarks and seeds share one stream of requests, so the workers do not idle while one benchmark waits
for its last answers. How a sample is asked is handed in as `ask`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trimode.core.errors import ConfigError, WorkerError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.client.answer import Answer, Ask, sample_seed
from trimode.pipeline.client.metrics_file import write_metrics
from trimode.pipeline.console.progress import Progress
from trimode.pipeline.data import load_rows
from trimode.pipeline.data.prompts import user_message
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.rows import ERROR_KIND, INFRASTRUCTURE
from trimode.pipeline.run_folder.store import chunk_lock
from trimode.pipeline.scoring import ScoringPool, finish_rows
from trimode.pipeline.scoring.verdicts import is_right
from trimode.pipeline.spec import JobSpec, TaskSpec

MAX_FAILURES_IN_A_ROW = 32
"""The job fails after this many consecutive infrastructure errors (or after all samples, if it has fewer)."""
SCORING_BACKLOG = 256
"""Most answers waiting to be scored. At the limit the client stops sending prompts."""


class Scorers(Protocol):
    """What scores rows while it is open: `scoring.ScoringPool`, or a test's stand-in."""

    def open(self) -> None:
        """Makes the scorers ready."""

    def submit(self, row: Row) -> Future[Row]:
        """The verdict fields of `row`, later."""

    def close(self) -> None:
        """Scores every row that was submitted, then ends."""

    def abandon(self) -> None:
        """Ends without waiting for rows that are not scored yet."""


MakePool = Callable[[Benchmark, Path | None, int], Scorers]
"""(benchmark, data folder, number of processes) -> scorers, not open yet."""


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

    @property
    def num_left(self) -> int:
        """Number of samples still to ask, over all seeds."""
        return sum(position not in self.finished[seed] for seed in self.task.seeds for position in self.positions)

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
        asked = len(rows) if task.limit is None else min(task.limit, len(rows))
        finished = {seed: folder.finished(task.benchmark, seed) for seed in task.seeds}
        loaded.append(LoadedTask(task=task, benchmark=benchmark, all_rows=rows, rows_asked=asked, finished=finished))
    return loaded


@dataclass(frozen=True, slots=True)
class _Question:
    run: _TaskRun
    seed: int
    position: int

    @property
    def name(self) -> str:
        return f"{self.run.loaded.task.benchmark}-rs{self.seed}-{self.position}"

    @property
    def sample_seed(self) -> int:
        return sample_seed(self.seed, self.run.loaded.task.benchmark, self.position)

    @property
    def row(self) -> Row:
        return self.run.loaded.all_rows[self.position]


class _TaskRun:
    """One benchmark while its samples are running: its scorers, its stores and how many samples are left per seed."""

    def __init__(self, loaded: LoadedTask, folder: RunFolder, make_pool: MakePool) -> None:
        self.loaded = loaded
        self._folder = folder
        self._make_pool = make_pool
        task = loaded.task
        self.stores = {seed: folder.store(task, seed) for seed in task.seeds}
        self.left = {
            seed: sum(position not in loaded.finished[seed] for position in loaded.positions) for seed in task.seeds
        }
        self._pool: Scorers | None = None

    def questions(self) -> Iterator[_Question]:
        for seed in self.loaded.task.seeds:
            for position in self.loaded.positions:
                if position not in self.loaded.finished[seed]:
                    yield _Question(self, seed, position)

    async def score(self, row: Row) -> Row:
        """Returns the row with its verdict, from a scoring process."""
        if self._pool is None:
            spec = self._folder.spec
            data_dir = Path(spec.data_dir) if spec.data_dir else None
            self._pool = self._make_pool(self.loaded.benchmark, data_dir, spec.client.num_scorers)
            self._pool.open()
        return row | await asyncio.wrap_future(self._pool.submit(row))

    def finish_seed(self, seed: int) -> None:
        self.stores[seed].finish(self.loaded.rows_asked, lambda rows: finish_rows(self.loaded.benchmark, rows))

    def finish(self) -> None:
        for store in self.stores.values():
            store.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        task, folder = self.loaded.task, self._folder
        with chunk_lock(folder.paths, task.benchmark, task.chunk):
            if folder.is_merged(task, self.loaded.rows_asked):
                write_metrics(folder.paths, task, self.loaded.rows_asked)
                folder.note_metrics(task.benchmark)

    def abandon(self) -> None:
        """Closes files and scorers without waiting for rows that are still being scored: nobody will read them."""
        for store in self.stores.values():
            store.close()
        if self._pool is not None:
            self._pool.abandon()
            self._pool = None


async def run_tasks(
    folder: RunFolder, loaded: list[LoadedTask], ask: Ask, progress: Progress, make_pool: MakePool | None = None
) -> None:
    """Asks, scores and stores every unfinished sample of the loaded tasks, then writes each task's metrics.json.

    `make_pool` makes the scorers of a benchmark; None = scoring processes. Raises WorkerError if the infrastructure
    stops answering; the rows stored until then stay.
    """
    runs = [_TaskRun(item, folder, make_pool or ScoringPool) for item in loaded]
    folder.open_ledger()
    try:
        await _Stream(folder, ask, progress).run(runs)
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        for run in runs:
            run.abandon()
        folder.ledger.close()


class _Stream:
    """The stream of requests: `max_concurrent_requests` senders share all questions; answers are scored and stored."""

    def __init__(self, folder: RunFolder, ask: Ask, progress: Progress) -> None:
        self._spec = folder.spec
        self._ledger = folder.ledger
        self._ask = ask
        self._progress = progress
        self._failures_in_a_row = 0
        self._max_failures = MAX_FAILURES_IN_A_ROW
        self._backlog = asyncio.Semaphore(SCORING_BACKLOG)

    async def run(self, runs: list[_TaskRun]) -> None:
        questions = (question for run in runs for question in run.questions())
        num_left = sum(sum(run.left.values()) for run in runs)
        num_samples = sum(len(run.loaded.positions) * len(run.left) for run in runs)
        self._max_failures = min(MAX_FAILURES_IN_A_ROW, num_samples)
        async with asyncio.TaskGroup() as group:
            for run in runs:
                for seed in run.left:
                    if run.left[seed] == 0:
                        group.create_task(self._finish_seed(run, seed))
            for _ in range(min(self._spec.client.max_concurrent_requests, num_left)):
                group.create_task(self._send(questions, group))

    async def _send(self, questions: Iterator[_Question], group: asyncio.TaskGroup) -> None:
        for question in questions:
            prompt = user_message(question.run.loaded.benchmark, question.row)
            answer = await self._ask(question.name, prompt, question.sample_seed)
            self._watch(answer)
            await self._backlog.acquire()
            group.create_task(self._score_and_store(question, answer))

    def _watch(self, answer: Answer) -> None:
        if answer.error_kind != INFRASTRUCTURE:
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._max_failures:
            raise WorkerError(f"the last {self._failures_in_a_row} samples got no answer; the last one: {answer.error}")

    async def _score_and_store(self, question: _Question, answer: Answer) -> None:
        """Scores and stores one answer, and finishes its seed and benchmark if it was the last of them."""
        run = question.run
        try:
            row = await run.score(answered_row(run.loaded.benchmark, question.row, answer))
        finally:
            self._backlog.release()
        record = nfe_record(self._spec, question, answer)
        run.stores[question.seed].append(question.position, row, record)
        self._ledger.append(record)
        self._progress.add(run.loaded.task.benchmark, is_right(run.loaded.benchmark, row), record)
        run.left[question.seed] -= 1
        if run.left[question.seed] == 0:
            await self._finish_seed(run, question.seed)

    async def _finish_seed(self, run: _TaskRun, seed: int) -> None:
        await asyncio.to_thread(self._ledger.sync)
        await asyncio.to_thread(run.finish_seed, seed)
        run.left.pop(seed)
        if not run.left:
            await asyncio.to_thread(run.finish)
            self._progress.finish(run.loaded.task.benchmark)


def answered_row(benchmark: Benchmark, data: Row, answer: Answer) -> Row:
    """Returns the row that NeMo-Skills builds from a reply, before scoring: reply keys, then the data's fields."""
    message: Row = {"content": answer.text, "role": "assistant", "tool_calls": None, "function_call": None}
    row: Row = {
        benchmark.generation_key: answer.text,
        "num_generated_tokens": answer.cost.completion_tokens,
        "finish_reason": answer.finish_reason,
        "serialized_output": [message] if answer.error is None else [],
    }
    if answer.reasoning is not None:
        row["reasoning_content"] = message["reasoning_content"] = answer.reasoning
    if answer.reasoning_tokens is not None:
        row["num_reasoning_tokens"] = answer.reasoning_tokens
        row["num_answer_tokens"] = answer.cost.completion_tokens - answer.reasoning_tokens
    if answer.error is not None:
        row["error"] = answer.error
        row[ERROR_KIND] = answer.error_kind
    row["generation_start_time"] = answer.started_at
    row["generation_end_time"] = answer.ended_at
    row["generation_time"] = answer.ended_at - answer.started_at
    return row | data


def nfe_record(spec: JobSpec, question: _Question, answer: Answer) -> NfeRecord:
    """Returns the ledger record of one answer."""
    return NfeRecord(
        request_id=answer.request_id,
        benchmark=question.run.loaded.task.benchmark,
        sample_id=question.position,
        seed=question.seed,
        mode=spec.decode.mode.value,
        lora=spec.decode.lora,
        finish_reason=answer.finish_reason,
        cost=answer.cost,
        error=answer.error,
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first error inside nested groups that is not a group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
