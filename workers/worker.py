"""The worker: one engine on one device in a thread of its own, called from an event loop.

Prompts are templated and tokenized in threads beside it, so that decoding and the event loop go on meanwhile.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trimode.core import worker
from trimode.core.delta import OnDelta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.field_rules import show
from trimode.core.protocol import Generation, WorkerSettings
from trimode.core.worker import WorkerInfo, WorkerStats
from trimode.workers.boundary import one_request
from trimode.workers.engine.scheduler import CANCELLED, Sequence
from trimode.workers.journal.journal import Journal, token_identity
from trimode.workers.params import STREAM_EVENTS, read_parts_every_s, read_request_id
from trimode.workers.runtime import Prepared, Runtime
from trimode.workers.stream import Listener, Listeners

TOKENIZER_THREADS = 2
"""Threads that template and tokenize prompts. Two, so that one long prompt does not hold up the short ones."""


@dataclasses.dataclass(slots=True, eq=False)
class _Job:
    """One request on its way: prepared by a tokenizer thread, then handed to the engine's thread."""

    request_id: str
    fields: Mapping[str, object]
    future: Future[Generation]
    listener: Listener | None = None
    """None if the answer is wanted as a whole."""
    arrived: float = dataclasses.field(default_factory=time.perf_counter)
    prepared: Prepared | None = None
    """None until the prompt is tokenized."""
    sequence: Sequence | None = None
    """None until the engine has it."""
    cancelled: bool = False

    def go_on(self) -> None:
        """Raises GenerationError (499) if the request was cancelled."""
        if self.cancelled:
            raise GenerationError(CANCELLED, status=499)


class Worker(worker.Worker):
    """Loads the model in its constructor, then decodes requests of all modes together."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Blocks until the model is loaded.

        Raises:
            ConfigError: bad checkpoint, adapter or setting.
            WorkerError: the device has no room.
        """
        self._runtime = Runtime(settings)
        for operator, choice in self._runtime.describe_kernels().items():
            print(f"kernel {operator}: {choice}", file=sys.stderr, flush=True)
        self._wake = threading.Condition()
        self._preparing: set[_Job] = set()
        self._inbox: deque[_Job] = deque()
        """Prepared requests for the engine's thread."""
        self._jobs: dict[str, _Job] = {}
        self._listeners = Listeners()
        """Of the requests inside the engine."""
        self._closed = False
        self._failure: str | None = None
        self._info: WorkerInfo | None = None
        self._journal = None
        if settings.journal is not None:
            self._journal = Journal(Path(settings.journal), settings.journal_prefix, token_identity(self.info()))
        self._flushes: list[Future[None]] = []
        """Calls of `flush` that the engine's thread has not seen."""
        self._tokenizers = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None = None) -> Generation:
        """Answers one request. Cancelling the call cancels the request.

        Args:
            fields: see workers.params; `request_id` names the request for `cancel`.
            on_delta: takes the parts of the answer as they come; None = it is wanted as a whole.

        Raises:
            GenerationError: this request is refused or failed.
            WorkerError: the worker is closed or broken.
        """
        request_id = read_request_id(fields) or uuid.uuid4().hex
        listener = None
        if on_delta is not None:
            shows = fields.get("stream_events") == STREAM_EVENTS
            every_s = read_parts_every_s(fields)
            listener = Listener(on_delta, asyncio.get_running_loop(), show_passes=shows, every_s=every_s)
        job = _Job(request_id, fields, Future(), listener)
        with self._wake:
            if self._closed or self._failure:
                raise WorkerError(self._failure or "the worker is closed")
            if request_id in self._jobs:
                raise GenerationError(
                    f"request_id: {show(request_id)} is running already; valid: a fresh one", status=409
                )
            self._jobs[request_id] = job
            self._preparing.add(job)
            self._tokenizers.submit(self._prepare, job)
        try:
            generation = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._cancel(request_id)
            raise
        if listener is not None:
            listener.hear_last(generation)
        return generation

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Answers a question about text, in a tokenizer thread."""
        if self._closed:
            raise WorkerError("the worker is closed")
        work = self._tokenizers.submit(self._runtime.text_task, task, fields)
        return await asyncio.wrap_future(work)

    async def cancel(self, request_id: str) -> None:
        """Ends a request at the next step, or at once if its prompt is still being tokenized.

        One that is unknown or over is ignored.
        """
        self._cancel(request_id)

    async def flush(self) -> None:
        """Writes down the running requests, if there is a journal, and returns when they are on the disk."""
        done: Future[None] = Future()
        with self._wake:
            if self._journal is None or self._closed or self._failure:
                return
            self._flushes.append(done)
            self._wake.notify()
        await asyncio.wrap_future(done)

    def info(self) -> WorkerInfo:
        """Returns what this worker is; the first call reads all weights to hash them."""
        if self._info is None:
            self._info = self._runtime.info()
        return self._info

    async def stats(self) -> WorkerStats:
        """Returns the engine's counters and what is running now."""
        engine = self._runtime.engine
        allocator = engine.allocator
        with self._wake:
            waiting = len(engine.waiting) + len(self._inbox) + len(self._preparing)
        return WorkerStats(
            running=len(engine.running),
            waiting=waiting,
            pages_total=allocator.num_pages,
            pages_free=allocator.num_free,
            pages_shared=allocator.num_shared,
            **dataclasses.asdict(engine.counters),
        )

    def close(self) -> None:
        """Ends the thread. Running requests get a WorkerError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._tokenizers.shutdown(cancel_futures=True)

    def _cancel(self, request_id: str) -> None:
        with self._wake:
            job = self._jobs.get(request_id)
            if job is None:
                return
            job.cancelled = True
            unprepared = job in self._preparing
            self._preparing.discard(job)
            self._wake.notify()
        if unprepared:  # its tokenizer thread drops it as soon as it looks
            self._resolve(job, GenerationError(CANCELLED, status=499))

    def _prepare(self, job: _Job) -> None:
        """Runs in a tokenizer thread: checks the request and tokenizes its prompt."""
        try:
            with one_request("the preparation"):
                prepared = self._prepared(job)
        except GenerationError as error:
            self._resolve(job, error)
            return
        finally:
            job.fields = {}  # so that the prompt's text does not stay
        with self._wake:
            if job not in self._preparing:
                return
            self._preparing.discard(job)
            job.prepared = prepared
            self._inbox.append(job)
            self._wake.notify()

    def _prepared(self, job: _Job) -> Prepared:
        job.go_on()
        prepared = self._runtime.prepare(job.fields, job.go_on)
        if job.listener is not None:
            job.listener.begin(self._runtime.text, prepared)
        if self._journal is not None and prepared.continuation is None:  # a listener has got none of what it holds
            found = self._journal.find(prepared.prompt_ids, prepared.params)
            prepared = dataclasses.replace(prepared, continuation=found)
        return prepared

    def _loop(self) -> None:
        failure = "the worker was closed"
        try:
            while True:
                with self._wake:
                    while not (self._closed or self._inbox or self._flushes or self._runtime.engine.busy):
                        self._wake.wait()
                    if self._closed:
                        return
                    inbox, self._inbox = self._inbox, deque()
                    flushes, self._flushes = self._flushes, []
                    gone = [job.sequence for job in self._jobs.values() if job.cancelled and job.sequence]
                for job in inbox:
                    self._submit(job)
                for sequence in gone:
                    self._runtime.engine.cancel(sequence)
                ended = self._runtime.engine.step()
                self._listeners.hand_out()
                if self._journal is not None:
                    self._journal.after_step(self._runtime.engine.running, ended, flushes)
                for sequence in ended:
                    self._finish(sequence)
        except BaseException as error:
            failure = f"the engine stopped: {type(error).__name__}: {error}"
            raise
        finally:
            with self._wake:
                self._failure = failure
                self._preparing.clear()
                jobs = list(self._jobs.values())
            if self._journal is not None:
                self._journal.close(self._runtime.engine.running, self._flushes)
            for job in jobs:
                self._resolve(job, WorkerError(failure))

    def _submit(self, job: _Job) -> None:
        assert job.prepared is not None
        try:
            job.sequence = self._runtime.add(job.request_id, job.prepared, job.arrived)
        except GenerationError as error:
            self._resolve(job, error)
            return
        if job.listener is not None:
            self._listeners.add(job.sequence, job.listener)
        if job.cancelled:
            self._runtime.engine.cancel(job.sequence)

    def _finish(self, sequence: Sequence) -> None:
        job = self._jobs[sequence.request_id]
        self._listeners.remove(sequence)
        result: Generation | GenerationError
        try:
            result = sequence.error or self._runtime.generation(sequence)
        except GenerationError as error:
            result = error
        self._resolve(job, result)

    def _resolve(self, job: _Job, result: Generation | GenerationError | WorkerError) -> None:
        """Ends a request, once: whoever comes second finds it gone."""
        with self._wake:
            if self._jobs.get(job.request_id) is not job:
                return
            del self._jobs[job.request_id]
            self._preparing.discard(job)
        if not job.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Generation):
            job.future.set_result(result)
        else:
            job.future.set_exception(result)
