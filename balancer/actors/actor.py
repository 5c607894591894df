"""The Ray actor around one worker: one process, one device, the worker class handed in by name.

Errors that the project raises on purpose travel back as values, so that their message and status arrive unchanged.
Anything else reaches the caller as Ray's own exception.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode.core.errors import GenerationError, TrimodeError, WorkerError
from trimode.core.processes import die_with_parent
from trimode.core.protocol import Generation, WorkerSettings
from trimode.core.worker import Worker, WorkerInfo, WorkerStats


@dataclass(frozen=True, slots=True)
class Started:
    """What an actor says once its worker is ready."""

    info: WorkerInfo
    pid: int


class WorkerActor:
    """Holds one worker. `start` must have returned Started before any other method is called."""

    _worker: Worker

    def __init__(self, log_file: str) -> None:
        _redirect_output(Path(log_file))
        # a worker deep in a forward does not look at its socket to the raylet; the kernel ends it in time
        die_with_parent()

    async def start(self, worker_class: str, settings: WorkerSettings) -> Started | TrimodeError:
        """Loads the model. Returns the error that says why, when it cannot."""
        if settings.num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.num_threads)  # Ray has put 1 there
        module, _, name = worker_class.partition(":")
        make_worker: Callable[[WorkerSettings], Worker] = getattr(importlib.import_module(module), name)
        try:
            self._worker = make_worker(settings)
        except TrimodeError as error:
            return error
        return Started(self._worker.info(), os.getpid())

    async def generate(self, fields: dict[str, Any]) -> Generation | GenerationError:
        """Answers one request. Returns the error of a request that the worker refused or failed on."""
        try:
            return await self._worker.generate(fields)
        except GenerationError as error:
            return error
        except WorkerError as error:
            # a broken engine answers no request: end its process, and the balancer starts a new one
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    async def text(self, task: str, fields: dict[str, Any]) -> dict[str, Any] | GenerationError:
        """Answers a question about text. Returns the error of one that the worker refused."""
        try:
            return await self._worker.text(task, fields)
        except GenerationError as error:
            return error

    async def cancel(self, request_id: str) -> None:
        """Ends a running request; unknown ids are ignored."""
        await self._worker.cancel(request_id)

    async def stats(self) -> WorkerStats:
        """Returns the worker's own counters."""
        return await self._worker.stats()

    async def wait_until_dead(self) -> None:
        """Never returns: the call fails at the moment the process dies, which is how the balancer learns of it."""
        await asyncio.Event().wait()


def _redirect_output(log_file: Path) -> None:
    """Appends all that this process prints, C libraries included, to `log_file`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
