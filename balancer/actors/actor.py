"""The Ray actor around one worker: one process, one device, the worker class handed in by name.

Knows nothing of HTTP or of other workers. Errors that the project raises on purpose travel back as data, so that their
words and status arrive unchanged; anything else reaches the caller as Ray's own exception.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from trimode.core.errors import GenerationError, TrimodeError, WorkerError
from trimode.core.protocol import WorkerSettings

_PR_SET_PDEATHSIG = 1

Reply = dict[str, Any]
"""{"ok": value} or {"error": message, "status": HTTP status or None}."""


class WorkerActor:
    """Holds one worker. `start` must have answered before `generate` is called."""

    def __init__(self, log_file: str) -> None:
        _redirect_output(Path(log_file))
        # a worker deep in a forward does not look at its socket to the raylet; the kernel ends it in time
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._worker: Any = None

    async def start(self, worker_class: str, settings: WorkerSettings) -> Reply:
        """Loads the model; {"ok": {"info": the worker's info, "pid": ...}} or the reason why it cannot."""
        if settings.num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.num_threads)  # Ray has put 1 there
        os.environ.update(settings.extra)
        module, _, name = worker_class.partition(":")
        try:
            self._worker = getattr(importlib.import_module(module), name)(settings)
        except TrimodeError as error:
            return {"error": str(error), "status": None}
        return {"ok": {"info": self._worker.info(), "pid": os.getpid()}}

    async def generate(self, fields: dict[str, Any]) -> Reply:
        """One request from its fields to its generation as a plain dict."""
        try:
            return {"ok": await self._worker.generate(fields)}
        except GenerationError as error:
            return {"error": error.message, "status": error.status}
        except WorkerError as error:
            # an engine that is broken answers nobody: end its process, and the balancer puts a new one here
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    async def cancel(self, request_id: str) -> None:
        """Ends a running generation; unknown ids are ignored."""
        self._worker.cancel(request_id)

    async def stats(self) -> dict[str, Any]:
        """The worker's own counters."""
        stats: dict[str, Any] = self._worker.stats()
        return stats

    async def wait_until_dead(self) -> None:
        """Never returns: the call fails at the moment the process dies, which tells the balancer."""
        await asyncio.Event().wait()


def _redirect_output(log_file: Path) -> None:
    """Appends all this process prints, C libraries included, to `log_file`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
