"""The worker: one engine on one device in a thread of its own, behind an async face that any server can hold.

Knows requests as flat fields and results as plain dicts; knows nothing of HTTP, Ray or other workers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future

from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import WorkerSettings
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.runtime import Runtime


@dataclasses.dataclass(slots=True, eq=False)
class _Job:
    """A request on its way through the engine's thread."""

    request_id: str
    fields: Mapping[str, object]
    future: Future[dict[str, object]]
    sequence: Sequence | None = None
    cancelled: bool = False


class Worker:
    """Loads the model in its constructor, then answers requests of all modes together."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Blocks until the model is loaded.

        Raises:
            ConfigError: bad checkpoint, adapter or setting.
            WorkerError: the device has no room.
        """
        self._runtime = Runtime(settings)
        for operator, choice in self._runtime.engine.model.describe_kernels().items():
            print(f"kernel {operator}: {choice}", file=sys.stderr, flush=True)
        self._wake = threading.Condition()
        self._inbox: deque[_Job] = deque()
        self._jobs: dict[str, _Job] = {}
        self._closed = False
        self._failure: str | None = None
        self._info: dict[str, object] | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, fields: Mapping[str, object]) -> dict[str, object]:
        """Answers one request; `Generation.to_json()`.

        Args:
            fields: see workers.params; `request_id` names it for `cancel`.

        Raises:
            GenerationError: this request is refused or failed.
            WorkerError: the worker is closed or broken.
        """
        request_id = str(fields.get("request_id") or uuid.uuid4().hex)
        job = _Job(request_id, fields, Future())
        with self._wake:
            if self._closed or self._failure:
                raise WorkerError(self._failure or "the worker is closed")
            if request_id in self._jobs:
                raise GenerationError(f"request_id: {request_id!r} is running already; valid: a fresh one", status=409)
            self._jobs[request_id] = job
            self._inbox.append(job)
            self._wake.notify()
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self.cancel(request_id)
            raise

    def cancel(self, request_id: str) -> bool:
        """Ends a request at the next step; false when it is unknown or over."""
        with self._wake:
            job = self._jobs.get(request_id)
            if job is None:
                return False
            job.cancelled = True
            self._wake.notify()
            return True

    def info(self) -> dict[str, object]:
        """What this worker is (model, device, limits, hashes, versions)."""
        if self._info is None:
            self._info = self._runtime.info()
        return self._info

    def stats(self) -> dict[str, object]:
        """Engine counters and what is running now."""
        engine = self._runtime.engine
        counters = engine.counters
        allocator = engine.allocator
        busy_s = counters.model_s + counters.host_s
        return {
            "running": len(engine.running),
            "waiting": len(engine.waiting) + len(self._inbox),
            "pages_total": allocator.num_pages,
            "pages_free": allocator.num_free,
            "pages_shared": allocator.num_shared,
            **dataclasses.asdict(counters),
            "tpf": counters.tokens_generated / counters.nfe if counters.nfe else None,
            "acceptance_length": counters.accepted / counters.cycles if counters.cycles else None,
            "tokens_per_second": counters.tokens_generated / busy_s if busy_s else None,
            "forwards_per_second": counters.steps / busy_s if busy_s else None,
            "host_gap": counters.host_s / busy_s if busy_s else None,
        }

    def close(self) -> None:
        """Ends the thread; running requests get a WorkerError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _loop(self) -> None:
        failure = "the worker was closed"
        try:
            while True:
                with self._wake:
                    while not (self._closed or self._inbox or self._runtime.engine.busy):
                        self._wake.wait()
                    if self._closed:
                        return
                    inbox, self._inbox = self._inbox, deque()
                    gone = [job.sequence for job in self._jobs.values() if job.cancelled and job.sequence]
                for job in inbox:
                    self._submit(job)
                for sequence in gone:
                    self._runtime.engine.cancel(sequence)
                for sequence in self._runtime.engine.step():
                    self._finish(sequence)
        except BaseException as error:
            failure = f"the engine stopped: {type(error).__name__}: {error}"
            raise
        finally:
            with self._wake:
                self._failure = failure
                jobs = list(self._jobs.values())
            for job in jobs:
                self._resolve(job, WorkerError(failure))

    def _submit(self, job: _Job) -> None:
        try:
            job.sequence = self._runtime.submit(job.request_id, job.fields)
        except GenerationError as error:
            self._resolve(job, error)
            return
        if job.cancelled:
            self._runtime.engine.cancel(job.sequence)

    def _finish(self, sequence: Sequence) -> None:
        job = self._jobs[sequence.request_id]
        self._resolve(job, sequence.error or self._runtime.generation(sequence).to_json())

    def _resolve(self, job: _Job, result: dict[str, object] | GenerationError | WorkerError) -> None:
        with self._wake:
            self._jobs.pop(job.request_id, None)
        if job.future.cancelled() or not job.future.set_running_or_notify_cancel():
            return
        if isinstance(result, dict):
            job.future.set_result(result)
        else:
            job.future.set_exception(result)
