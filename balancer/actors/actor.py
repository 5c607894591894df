"""The Ray actor around one worker: one process, one device, the worker class handed in by name.

Ray starts and ends it, and notices its death. Requests come over a socket of the worker's own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from trimode.balancer.actors.wire import Door
from trimode.balancer.actors.worker_socket import listen
from trimode.core.errors import TrimodeError
from trimode.core.processes import die_with_parent, spare_collector
from trimode.core.protocol import WorkerSettings
from trimode.core.worker import Worker, WorkerInfo


@dataclass(frozen=True, slots=True)
class Started:
    """What an actor says once its worker is ready."""

    info: WorkerInfo
    address: str
    """Where its socket is, for worker_client.connect."""


class WorkerActor:
    """Holds one worker. `start` must have returned Started before it can be asked anything."""

    def __init__(self, log_file: str) -> None:
        _redirect_output(Path(log_file))
        # a worker deep in a forward does not look at its socket to the raylet; the kernel ends it in time
        die_with_parent()

    async def identify(self, door: Door) -> tuple[int, bool]:
        """Returns the id of this process, and True if it runs on the balancer's machine."""
        return os.getpid(), door.is_here

    async def start(self, worker_class: str, settings: WorkerSettings, door: Door) -> Started | TrimodeError:
        """Loads the model and listens for requests. Returns the error that says why, when it cannot."""
        if settings.num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.num_threads)  # Ray has put 1 there
        module, _, name = worker_class.partition(":")
        make_worker: Callable[[WorkerSettings], Worker] = getattr(importlib.import_module(module), name)
        try:
            worker = make_worker(settings)
        except TrimodeError as error:
            return error
        spare_collector()
        self._server, address = await listen(worker, door, ray.util.get_node_ip_address())
        return Started(worker.info(), address)

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
