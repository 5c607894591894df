"""Keeps one living worker actor per slot: starts them, hears at once when one dies, and puts a new one in its place.

Knows nothing of HTTP or of what a request contains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from trimode.balancer.actors.actor import WorkerActor
from trimode.balancer.placement import Placement
from trimode.balancer.router import Router, WorkerSlot
from trimode.balancer.settings import BalancerSettings
from trimode.core.errors import GenerationError, TrimodeError, WorkerError

log = logging.getLogger("trimode.balancer")

STATS_TIMEOUT_S = 2.0
"""A worker that does not answer in time is shown without figures."""


class RayWorker:
    """A worker behind a Ray actor; Ray's exceptions become the project's."""

    def __init__(self, actor: ray.actor.ActorHandle, name: str) -> None:
        self.actor = actor
        self.name = name
        self.info: dict[str, Any] = {}
        self.pid = 0

    async def start(self, worker_class: str, placement: Placement) -> None:
        """Loads the model; WorkerError with the reason when it cannot."""
        reply = await self._start(worker_class, placement)
        if "error" in reply:
            raise WorkerError(f"{self.name} cannot start: {reply['error']}")
        self.info = reply["ok"]["info"]
        self.pid = reply["ok"]["pid"]

    async def generate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """One generation; GenerationError or WorkerError."""
        try:
            reply = await self.actor.generate.remote(fields)
        except RayTaskError as error:
            log.error("%s: unexpected %s in a request", self.name, type(error.cause).__name__)
            raise GenerationError("the worker failed on this request; its log has the cause", 500) from None
        except RayError as error:
            self.kill()  # unreachable counts as dead, and must then be dead
            raise WorkerError(f"{self.name} died ({type(error).__name__})") from None
        if "error" in reply:
            raise GenerationError(reply["error"], reply["status"] or 500)
        generation: dict[str, Any] = reply["ok"]
        return generation

    async def cancel(self, request_id: str) -> None:
        """Ends a running generation; a dead worker has none."""
        try:
            await self.actor.cancel.remote(request_id)
        except RayError:
            return

    async def stats(self) -> dict[str, Any] | None:
        """The worker's counters, or None when it does not answer in time."""
        try:
            async with asyncio.timeout(STATS_TIMEOUT_S):
                stats: dict[str, Any] = await self.actor.stats.remote()
        except (RayError, TimeoutError):
            return None
        return stats

    async def wait_until_dead(self) -> str:
        """Returns the cause once the process is gone."""
        try:
            await self.actor.wait_until_dead.remote()
        except RayError as error:
            return type(error).__name__
        return "it left"

    def kill(self) -> None:
        """Ends the process now."""
        ray.kill(self.actor)

    async def _start(self, worker_class: str, placement: Placement) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = await self.actor.start.remote(worker_class, placement.worker)
        except RayTaskError as error:
            raise WorkerError(f"{self.name} cannot start: {type(error.cause).__name__}: {error.cause}") from None
        except RayError as error:
            raise WorkerError(f"{self.name} died while it started ({type(error).__name__})") from None
        return reply


async def _stats_of(worker: RayWorker | None) -> dict[str, Any] | None:
    return None if worker is None else await worker.stats()


class WorkerPool:
    """The slots with their workers. `on_fatal(cause)` is called when it makes no sense to go on."""

    def __init__(
        self, settings: BalancerSettings, placement: Placement, log_dir: Path, on_fatal: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.placement = placement
        self.log_dir = log_dir
        self.slots = [WorkerSlot(index) for index in range(placement.num_workers)]
        self.router = Router(
            self.slots,
            in_flight_limit=settings.in_flight_limit,
            max_queue=settings.max_queue,
            on_death=self._on_death,
        )
        self.restarts = 0
        self.infos: list[dict[str, Any]] = []
        self._on_fatal = on_fatal
        self._actor_class = ray.remote(WorkerActor)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts every worker side by side; raises the first WorkerError."""
        workers = [self._new_worker(slot) for slot in self.slots]
        await asyncio.gather(*(worker.start(self.settings.worker_class, self.placement) for worker in workers))
        self.infos = [worker.info for worker in workers]
        for slot, worker in zip(self.slots, workers, strict=True):
            self._put_in_service(slot, worker)

    @property
    def workers(self) -> list[RayWorker | None]:
        """The worker of each slot, None while it is being replaced."""
        return [slot.handle if isinstance(slot.handle, RayWorker) else None for slot in self.slots]

    async def figures(self) -> dict[str, Any]:
        """Figures of the router and of each worker, with its engine's own (None while it does not answer)."""
        router, workers = self.router, self.workers
        engines = await asyncio.gather(*(_stats_of(worker) for worker in workers))
        return {
            "balancer": {
                "waiting": len(router.queue),
                "running": router.num_running,
                "finished": sum(slot.finished for slot in self.slots),
                "failed": sum(slot.failed for slot in self.slots),
                "retried": router.retried,
                "cancelled": router.cancelled,
                "rejected": router.rejected,
                "restarts": self.restarts,
            },
            "workers": [
                {
                    "index": slot.index,
                    "ready": slot.handle is not None,
                    "pid": worker.pid if worker is not None else None,
                    "running": len(slot.running),
                    "outstanding_tokens": round(slot.outstanding, 1),
                    "finished": slot.finished,
                    "failed": slot.failed,
                    "deaths": slot.deaths,
                    "engine": engine,
                }
                for slot, worker, engine in zip(self.slots, workers, engines, strict=True)
            ],
        }

    def _new_worker(self, slot: WorkerSlot) -> RayWorker:
        log_file = self.log_dir / f"{self.settings.log_prefix}worker_{slot.index}.log"
        limit = self.settings.in_flight_limit
        options = self._actor_class.options(
            num_cpus=0,
            num_gpus=self.placement.gpus_per_worker,
            max_concurrency=2 * limit + 100,  # generations, their cancellations, stats and the watch
            max_restarts=0,
            max_task_retries=0,
        )
        return RayWorker(options.remote(str(log_file)), f"worker {slot.index}")

    def _put_in_service(self, slot: WorkerSlot, worker: RayWorker) -> None:
        slot.handle = worker
        self._spawn(self._watch(slot, worker))
        self.router.dispatch()

    async def _watch(self, slot: WorkerSlot, worker: RayWorker) -> None:
        cause = await worker.wait_until_dead()
        self.router.slot_died(slot, worker, f"{worker.name} died ({cause})")

    def _on_death(self, slot: WorkerSlot, cause: str) -> None:
        log.warning("%s with %d requests; starting it again", cause, len(slot.running))
        if slot.deaths_in_a_row >= self.settings.max_worker_deaths:
            self._on_fatal(f"{cause}: {slot.deaths_in_a_row} deaths in a row with no finished request between them")
            return
        self._spawn(self._replace(slot))

    async def _replace(self, slot: WorkerSlot) -> None:
        """Starts workers in this slot until one is ready or the limit of deaths in a row is reached."""
        while True:
            worker = self._new_worker(slot)
            try:
                await worker.start(self.settings.worker_class, self.placement)
            except TrimodeError as error:
                worker.kill()
                slot.deaths += 1
                slot.deaths_in_a_row += 1
                log.warning("%s", error)
                if slot.deaths_in_a_row >= self.settings.max_worker_deaths:
                    self._on_fatal(f"{error}: {slot.deaths_in_a_row} deaths in a row")
                    return
                continue
            self.restarts += 1
            log.info("%s is back (pid %d)", worker.name, worker.pid)
            self._put_in_service(slot, worker)
            return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
