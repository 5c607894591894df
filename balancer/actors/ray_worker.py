"""One worker behind a Ray actor: how its process is started and ended, and how its calls travel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from trimode.balancer.actors.actor import Started, WorkerActor
from trimode.balancer.placement import Placement
from trimode.core.errors import GenerationError, TrimodeError, WorkerError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker, WorkerInfo, WorkerStats

log = logging.getLogger("trimode.balancer")

STATS_TIMEOUT_S = 2.0
"""A worker that does not answer in time is shown without stats."""


class Actors(Protocol):
    """Where worker actors come from."""

    def start(self, log_file: Path) -> ray.actor.ActorHandle:
        """Starts the process of one actor, which appends its output to `log_file`; does not wait for it."""

    def kill(self, actor: ray.actor.ActorHandle) -> None:
        """Ends the process of an actor now."""


class RayActors(Actors):
    """Actors in the Ray that this process is connected to."""

    def __init__(self, *, num_gpus: int, max_concurrency: int) -> None:
        self._options = ray.remote(WorkerActor).options(
            num_cpus=0, num_gpus=num_gpus, max_concurrency=max_concurrency, max_restarts=0, max_task_retries=0
        )

    def start(self, log_file: Path) -> ray.actor.ActorHandle:
        """Starts the process of one actor; does not wait for it."""
        return self._options.remote(str(log_file))

    def kill(self, actor: ray.actor.ActorHandle) -> None:
        """Ends the process of an actor now."""
        ray.kill(actor)


class RayWorker(Worker):
    """A worker behind an actor. Ray's exceptions become the project's."""

    def __init__(self, actors: Actors, name: str, log_file: Path) -> None:
        self.name = name
        self.pid = 0
        self._actors = actors
        self._actor = actors.start(log_file)
        self._info: WorkerInfo | None = None

    async def start(self, worker_class: str, placement: Placement) -> None:
        """Loads the model. WorkerError with the reason when it cannot."""
        try:
            started: Started | TrimodeError = await self._actor.start.remote(worker_class, placement.worker)
        except RayTaskError as error:
            raise WorkerError(f"{self.name} cannot start: {type(error.cause).__name__}: {error.cause}") from None
        except RayError as error:
            raise WorkerError(f"{self.name} died while it started ({type(error).__name__})") from None
        if isinstance(started, TrimodeError):
            raise WorkerError(f"{self.name} cannot start: {started}")
        self._info, self.pid = started.info, started.pid

    async def generate(self, fields: Mapping[str, object]) -> Generation:
        """Answers one request; GenerationError or WorkerError."""
        try:
            result: Generation | GenerationError = await self._actor.generate.remote(fields)
        except RayTaskError as error:
            log.error("%s: unexpected %s in a request", self.name, type(error.cause).__name__)
            raise GenerationError("the worker failed on this request; its log has the cause", 500) from None
        except RayError as error:
            self.close()  # an unreachable process counts as dead, so it must not live on
            raise WorkerError(f"{self.name} died ({type(error).__name__})") from None
        if isinstance(result, GenerationError):
            raise result
        return result

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Answers a question about text; GenerationError or WorkerError."""
        try:
            result: dict[str, Any] | GenerationError = await self._actor.text.remote(task, fields)
        except RayTaskError as error:
            log.error("%s: unexpected %s in a question about text", self.name, type(error.cause).__name__)
            raise GenerationError("the worker failed on this request; its log has the cause", 500) from None
        except RayError as error:
            raise WorkerError(f"{self.name} died ({type(error).__name__})") from None
        if isinstance(result, GenerationError):
            raise result
        return result

    async def cancel(self, request_id: str) -> None:
        """Ends a running request; a dead worker has none."""
        try:
            await self._actor.cancel.remote(request_id)
        except RayError:
            return

    def info(self) -> WorkerInfo:
        """Returns what the worker is; it must have started."""
        assert self._info is not None, f"{self.name} has not started"
        return self._info

    async def stats(self) -> WorkerStats:
        """Returns the worker's counters. WorkerError when it is dead or does not answer in time."""
        try:
            async with asyncio.timeout(STATS_TIMEOUT_S):
                stats: WorkerStats = await self._actor.stats.remote()
        except (RayError, TimeoutError) as error:
            raise WorkerError(f"{self.name} does not answer ({type(error).__name__})") from None
        return stats

    def close(self) -> None:
        """Ends the process now."""
        self._actors.kill(self._actor)

    async def wait_until_dead(self) -> str:
        """Returns the cause once the process is gone."""
        try:
            await self._actor.wait_until_dead.remote()
        except RayError as error:
            return type(error).__name__
        return "it left"
