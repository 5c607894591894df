"""Runs the benchmarks of one job: asks every unfinished sample, scores and stores it, and writes each metrics.json.

Samples of all benchmarks and seeds share one stream of requests, so the workers do not idle while one benchmark waits
for its last answers. How a sample is asked is handed in as `ask`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trimode.core.errors import WorkerError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.client.answer import Answer, Ask, not_asked, sample_seed
from trimode.pipeline.client.metrics_file import RefusedError, UnansweredError, share_problem, write_metrics
from trimode.pipeline.client.record import answered_row, judged_row, nfe_record
from trimode.pipeline.client.tasks import LoadedTask
from trimode.pipeline.console.progress import Progress
from trimode.pipeline.data.prompts import user_message
from trimode.pipeline.data.row_checks import row_error
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.nfe import NfeRecord, read_run_ledger
from trimode.pipeline.run_folder.rows import INFRASTRUCTURE, SCORING_ERROR, UNSCORED, read_unscored_rows
from trimode.pipeline.run_folder.store import chunk_lock
from trimode.pipeline.scoring import ScoringPool, finish_rows
from trimode.pipeline.scoring.verdicts import row_points

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


@dataclass(frozen=True, slots=True)
class _Question:
    run: _TaskRun
    seed: int
    position: int

    @property
    def name(self) -> str:
        return f"{self.run.loaded.task.benchmark}-rs{self.seed}-{self.position}"

    @property
    def key(self) -> tuple[str, int, int]:
        """Key of the sample's ledger line."""
        return self.run.loaded.task.benchmark, self.seed, self.position

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
            seed: sum(position not in loaded.finished[seed] for position in loaded.positions)
            + len(loaded.unscored.get(seed, ()))
            for seed in task.seeds
        }
        """Per seed, the samples that are still to be asked, or to be scored again."""
        self.num_unanswered = 0
        """Samples of this run without an answer because the infrastructure failed."""
        self.problem: str | None = None
        """Why the benchmark is not finished although every sample was asked."""
        self._pool: Scorers | None = None
        self._opening = asyncio.Lock()
        self._abandoned = False

    def questions(self) -> Iterator[_Question]:
        for seed in self.loaded.task.seeds:
            for position in self.loaded.positions:
                if position not in self.loaded.finished[seed]:
                    yield _Question(self, seed, position)

    def unscored(self) -> Iterator[tuple[_Question, Row, NfeRecord | None]]:
        """Yields the samples to score again, each with its stored row and its ledger record (None: lost)."""
        benchmark, run_dir = self.loaded.task.benchmark, self._folder.paths.run_dir
        ledger = read_run_ledger(run_dir) if any(self.loaded.unscored.values()) else {}
        for seed, positions in self.loaded.unscored.items():
            rows = read_unscored_rows(self._folder.paths, benchmark, seed, positions) if positions else {}
            for position, row in rows.items():
                yield _Question(self, seed, position), row, ledger.get((benchmark, seed, position))

    async def score(self, row: Row) -> Row:
        """Returns the row with its verdict, from a scoring process."""
        async with self._opening:
            if self._pool is None:  # in a thread: making it ready takes seconds, in which answers must be stored
                await asyncio.to_thread(self._open_pool)
        assert self._pool is not None
        unjudged = judged_row(self.loaded.benchmark, row, {})
        return judged_row(self.loaded.benchmark, row, await asyncio.wrap_future(self._pool.submit(unjudged)))

    def _open_pool(self) -> None:
        spec = self._folder.spec
        data_dir = Path(spec.data_dir) if spec.data_dir else None
        self._pool = pool = self._make_pool(self.loaded.benchmark, data_dir, spec.client.num_scorers)
        pool.open()
        if self._abandoned:  # meanwhile
            pool.abandon()

    def finish_seed(self, seed: int) -> None:
        self.stores[seed].finish(self.loaded.rows_asked, lambda rows: finish_rows(self.loaded.benchmark, rows))

    def finish(self) -> None:
        for store in self.stores.values():
            store.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        task, folder, asked = self.loaded.task, self._folder, self.loaded.rows_asked
        largest = folder.spec.client.max_failed_share
        self.problem = share_problem(self.num_unanswered, len(self.loaded.positions) * len(task.seeds), largest)
        with chunk_lock(folder.paths, task.benchmark, task.chunk):
            if not folder.is_merged(task, asked):
                return
            try:
                write_metrics(folder.paths, task, asked, largest)
            except RefusedError as error:
                self.problem = str(error)
            except UnansweredError as error:
                if task.chunk is None:
                    self.problem = str(error)
                else:  # the other shares of the benchmark belong to other jobs
                    print(f"{task.benchmark}: no metrics yet: {error}", flush=True)
            else:
                folder.note_metrics(task.benchmark)

    def abandon(self) -> None:
        """Closes files and scorers without waiting for rows that are still being scored: nobody will read them."""
        self._abandoned = True
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
    stops answering, and its subclass UnansweredError after the last sample if too many samples of a benchmark have no
    answer. The rows stored until then stay.
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
    if problems := [f"{run.loaded.benchmark.name}: {run.problem}" for run in runs if run.problem]:
        raise UnansweredError("; ".join(problems))


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
            group.create_task(self._score_again(runs, group))
            for _ in range(min(self._spec.client.max_concurrent_requests, num_left)):
                group.create_task(self._send(questions, group))

    async def _score_again(self, runs: list[_TaskRun], group: asyncio.TaskGroup) -> None:
        """Scores stored answers that could not be scored, without asking for them again."""
        for run in runs:
            for question, row, record in run.unscored():
                await self._backlog.acquire()
                group.create_task(self._score_and_store(question, row, record, logged=True))

    async def _send(self, questions: Iterator[_Question], group: asyncio.TaskGroup) -> None:
        for question in questions:
            benchmark = question.run.loaded.benchmark
            if (problem := row_error(benchmark, question.row)) is not None:
                answer = not_asked(question.name, question.position, problem)
            else:
                answer = await self._ask(question.name, user_message(benchmark, question.row), question.sample_seed)
                self._watch(answer)
                self._progress.answered(benchmark.name, answer.started_at, answer.ended_at)
            question.run.num_unanswered += answer.error_kind == INFRASTRUCTURE
            await self._backlog.acquire()
            row = answered_row(benchmark, question.row, answer)
            record = nfe_record(self._spec, question.key, answer)
            if is_kept := answer.error is None:  # scoring takes its time, and a kill in between costs no answer
                unscored = judged_row(benchmark, row, {}) | {UNSCORED: True}
                question.run.stores[question.seed].append(question.position, unscored, record)
                self._ledger.append(record)
            group.create_task(self._score_and_store(question, row, record, logged=is_kept))

    def _watch(self, answer: Answer) -> None:
        if answer.error_kind != INFRASTRUCTURE:
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._max_failures:
            raise WorkerError(f"the last {self._failures_in_a_row} samples got no answer; the last one: {answer.error}")

    async def _score_and_store(
        self, question: _Question, unscored: Row, record: NfeRecord | None, logged: bool = False
    ) -> None:
        """Scores and stores one answer, and finishes its seed and benchmark if it was the last of them.

        `logged`: the ledger has its line already.
        """
        run = question.run
        try:
            row = await run.score(unscored)
        finally:
            self._backlog.release()
        run.stores[question.seed].append(question.position, row, record)
        if record is not None and not logged:
            self._ledger.append(record)
        self._progress.add(
            run.loaded.task.benchmark, row_points(run.loaded.benchmark, row), record, SCORING_ERROR in row
        )
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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first error inside nested groups that is not a group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
