"""One worker behind a Ray actor: how its process is started and ended, and how it is called."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from trimode.balancer.actors.actor import Started, WorkerActor
from trimode.balancer.actors.wire import Door
from trimode.balancer.actors.worker_client import WorkerClient, connect
from trimode.balancer.placement import Placement
from trimode.core.delta import OnDelta
from trimode.core.errors import TrimodeError, WorkerError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker, WorkerInfo, WorkerStats

STATS_TIMEOUT_S = 2.0
"""A worker that does not answer in time is shown without stats."""


FLUSH_S = 5.0
"""Seconds that a worker gets at the end to write down its running requests."""


class StartTimeoutError(WorkerError):
    """A worker was not ready in time."""


class Actors(Protocol):
    """Where worker actors come from."""

    def start(self, log_file: Path, node_id: str) -> ray.actor.ActorHandle:
        """Starts the process of one actor, which appends its output to `log_file`; does not wait for it.

        `node_id`: the only node that it may run on; empty = the only one there is.
        """

    def kill(self, actor: ray.actor.ActorHandle) -> None:
        """Ends the process of an actor now."""


class RayActors(Actors):
    """Actors in the Ray that this process is connected to."""

    def __init__(self, *, num_gpus: int, max_concurrency: int) -> None:
        self._choices = {"num_cpus": 0, "num_gpus": num_gpus, "max_concurrency": max_concurrency}
        self._choices |= {"max_restarts": 0, "max_task_retries": 0}
        self._actor = ray.remote(WorkerActor)
        self._options = self._actor.options(**self._choices)

    def start(self, log_file: Path, node_id: str) -> ray.actor.ActorHandle:
        """Starts the process of one actor; does not wait for it."""
        if not node_id:
            return self._options.remote(str(log_file))
        # not soft: on a node that is dead the start fails, instead of waiting for another node
        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return self._actor.options(**self._choices, scheduling_strategy=place).remote(str(log_file))

    def kill(self, actor: ray.actor.ActorHandle) -> None:
        """Ends the process of an actor now."""
        ray.kill(actor)


class RayWorker(Worker):
    """A worker behind an actor. Ray's exceptions become the project's."""

    def __init__(self, actors: Actors, name: str, log_file: Path, door: Door, node_id: str = "") -> None:
        self.name = name
        self.pid = 0
        self._actors = actors
        self._actor = actors.start(log_file, node_id)
        self._log_file = log_file
        self._door = door
        self._info: WorkerInfo | None = None
        self._client: WorkerClient | None = None
        self._is_here = False
        """True if its process runs on this machine."""

    async def start(self, worker_class: str, placement: Placement, limit_s: float = 0.0) -> None:
        """Loads the model. WorkerError with the reason when it cannot.

        One that is not ready after `limit_s` seconds is ended: StartTimeoutError. 0 = it may take any time.
        """
        try:
            async with asyncio.timeout(limit_s or None):
                await self._start(worker_class, placement)
        except TimeoutError:
            self.kill()
            raise StartTimeoutError(
                f"{self.name} was not ready within {limit_s:g} s and was ended. {self._log_file} has what it said; "
                "if it needs longer to load, raise --start-timeout (balancer.start_timeout_s of an evaluation)"
            ) from None

    async def _start(self, worker_class: str, placement: Placement) -> None:
        try:
            self.pid, self._is_here = await self._actor.identify.remote(self._door)
            started: Started | TrimodeError = await self._actor.start.remote(worker_class, placement.worker, self._door)
        except RayTaskError as error:
            raise WorkerError(f"{self.name} cannot start: {type(error.cause).__name__}: {error.cause}") from None
        except RayError as error:
            raise WorkerError(f"{self.name} died while it started ({type(error).__name__})") from None
        if isinstance(started, TrimodeError):
            raise WorkerError(f"{self.name} cannot start: {started}")
        self._client = await connect(self.name, started.address, self._door.secret)
        self._info = started.info

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None = None) -> Generation:
        """Answers one request; GenerationError or WorkerError."""
        try:
            return await self._connected().generate(fields, on_delta)
        except WorkerError:
            self.close()  # an unreachable process counts as dead, so it must not live on
            raise

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Answers a question about text; GenerationError or WorkerError."""
        try:
            return await self._connected().text(task, fields)
        except WorkerError:
            self.close()  # as above
            raise

    async def cancel(self, request_id: str) -> None:
        """Ends a running request; a dead worker has none."""
        await self._connected().cancel(request_id)

    def info(self) -> WorkerInfo:
        """Returns what the worker is; it must have started."""
        assert self._info is not None, f"{self.name} has not started"
        return self._info

    async def flush(self) -> None:
        """Has the worker write down its running requests. One that is dead or does not answer in time is left."""
        with contextlib.suppress(WorkerError, TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._connected().flush()

    async def stats(self) -> WorkerStats:
        """Returns the worker's counters. WorkerError when it is dead or does not answer in time."""
        try:
            async with asyncio.timeout(STATS_TIMEOUT_S):
                return await self._connected().stats()
        except TimeoutError:
            raise WorkerError(f"{self.name} does not answer") from None

    async def progress(self) -> tuple[int, int] | None:
        """Returns the steps of its engine and the messages that have come; None if it does not answer in time."""
        try:
            return (await self.stats()).steps, self._connected().num_heard
        except WorkerError:
            return None

    def _connected(self) -> WorkerClient:
        assert self._client is not None, f"{self.name} has not started"
        return self._client

    def close(self) -> None:
        """Ends the process now, and all calls. The connection to a machine that is gone would stay open for long."""
        self._actors.kill(self._actor)
        if self._client is not None:
            self._client.close()

    def kill(self) -> None:
        """Ends a process that may not answer, not even Ray. It must be alive, if it has begun. Then as `close`."""
        if self._is_here:  # only known once it has said so
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.close()

    async def wait_until_dead(self) -> str:
        """Returns the cause once the process is gone."""
        try:
            await self._actor.wait_until_dead.remote()
        except RayError as error:
            return type(error).__name__
        return "it left"
