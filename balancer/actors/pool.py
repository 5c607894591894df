"""Keeps one living worker actor per slot: starts them, learns at once when one dies, and replaces it.

A slot whose node is lost stays empty until the node joins again. The first node cannot be lost: this process is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from trimode.balancer.actors.hang_watch import wait_until_hung
from trimode.balancer.actors.nodes import JOIN_S, LivingNode, Nodes
from trimode.balancer.actors.ray_worker import Actors, RayActors, RayWorker, StartTimeoutError
from trimode.balancer.actors.wire import Door
from trimode.balancer.placement import Placement
from trimode.balancer.router import Router
from trimode.balancer.settings import BalancerSettings
from trimode.balancer.work import WorkerSlot
from trimode.core.errors import TrimodeError, WorkerError
from trimode.core.worker import WorkerInfo, WorkerStats

log = logging.getLogger("trimode.balancer")


async def _stats_of(worker: RayWorker | None) -> WorkerStats | None:
    try:
        return await worker.stats() if worker is not None else None
    except WorkerError:
        return None


class WorkerPool:
    """The slots with their workers. Calls `on_fatal(cause)` when one worker has died too often in a row.

    Without `actors`, Ray's are used.
    """

    def __init__(
        self,
        settings: BalancerSettings,
        placement: Placement,
        log_dir: Path,
        on_fatal: Callable[[str], None],
        door: Door,
        actors: Actors | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self.settings = settings
        self.placement = placement
        self.log_dir = log_dir
        self.slots = [WorkerSlot(index) for index in range(placement.num_workers * placement.num_nodes)]
        self.router = Router(
            self.slots,
            in_flight_limit=settings.in_flight_limit,
            max_queue=settings.max_queue,
            on_death=self._on_death,
            journal=settings.worker.journal is not None,
        )
        self.restarts = 0
        self.infos: list[WorkerInfo] = []
        self.on_change: Callable[[], None] = lambda: None
        """Called when workers are lost or back."""
        self._lost: set[int] = set()
        self._nodes = nodes or Nodes(placement.num_nodes)
        self._on_fatal = on_fatal
        self._door = door
        self._actors = actors or RayActors(
            num_gpus=placement.gpus_per_worker,
            max_concurrency=4,  # the start and the watch; requests come over the worker's own socket
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts all workers at the same time.

        Raises the first WorkerError, unless it comes of a lost node, or of a start that takes too long while another
        worker is ready. Such a worker is started again.
        """
        begun = await asyncio.gather(*(self._begin(slot) for slot in self.slots))
        workers = [one for one in begun if isinstance(one, RayWorker)]
        late = [one for one in begun if isinstance(one, StartTimeoutError)]
        if late and not workers:
            raise late[0]
        self.infos = [worker.info() for worker in workers]
        for slot, one in zip(self.slots, begun, strict=True):
            if isinstance(one, RayWorker):
                self._put_in_service(slot, one)
            elif one is not None:
                self._note_failed_start(slot, one)
                self._spawn(self._replace(slot))

    @property
    def workers(self) -> list[RayWorker | None]:
        """The worker of each slot, None while it is being replaced."""
        return [slot.worker if isinstance(slot.worker, RayWorker) else None for slot in self.slots]

    async def flush(self) -> None:
        """Has all workers write down their running requests, if they have a journal."""
        if self.settings.worker.journal is not None:
            await asyncio.gather(*(worker.flush() for worker in self.workers if worker is not None))

    async def stats(self) -> dict[str, Any]:
        """Returns the stats of the router and of each worker, with its engine's own (None while it does not answer)."""
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
                    "node": self._node_of(slot),
                    "ready": slot.worker is not None,
                    "pid": worker.pid if worker is not None else None,
                    "running": len(slot.running),
                    "outstanding_tokens": round(slot.outstanding, 1),
                    "finished": slot.finished,
                    "failed": slot.failed,
                    "failed_in_a_row": slot.health.failures,
                    "deaths": slot.deaths,
                    "engine": engine.to_json() if engine is not None else None,
                }
                for slot, worker, engine in zip(self.slots, workers, engines, strict=True)
            ],
        }

    @property
    def lost(self) -> dict[str, int]:
        """The number of lost workers, by the name of their node."""
        return dict(Counter(self._nodes.name(self._node_of(self.slots[index])) for index in sorted(self._lost)))

    def _node_of(self, slot: WorkerSlot) -> int:
        return slot.index // self.placement.num_workers

    async def _begin(self, slot: WorkerSlot) -> RayWorker | StartTimeoutError | None:
        """Starts the first worker of a slot. Returns None if its node does not join or is lost meanwhile."""
        try:
            async with asyncio.timeout(JOIN_S):
                node = await self._nodes.wait_for(self._node_of(slot))
        except TimeoutError:
            self._lose(slot, "", f"its node has not joined within {JOIN_S:.0f} s")
            return None
        worker = self._new_worker(slot, node)
        try:
            await self._load(worker)
        except StartTimeoutError as error:
            return error
        except WorkerError as error:
            if await self._lives(slot, node):
                raise
            self._lose(slot, node.node_id, str(error))
            return None
        return worker

    async def _load(self, worker: RayWorker) -> None:
        await worker.start(self.settings.worker_class, self.placement, self.settings.start_timeout_s)

    def _note_failed_start(self, slot: WorkerSlot, error: TrimodeError) -> None:
        slot.deaths += 1
        slot.deaths_in_a_row += 1
        log.warning("%s", error)

    async def _lives(self, slot: WorkerSlot, node: LivingNode) -> bool:
        return await self._nodes.find(self._node_of(slot)) == node

    def _lose(self, slot: WorkerSlot, node_id: str, cause: str) -> None:
        """Leaves a slot of a further node empty until that node joins again."""
        name = self._nodes.name(self._node_of(slot))
        log.warning("worker %d is lost with %s, and the others go on: %s", slot.index, name, cause)
        self._lost.add(slot.index)
        self._spawn(self._return(slot, node_id))
        self.on_change()

    async def _return(self, slot: WorkerSlot, node_id: str) -> None:
        await self._nodes.wait_for(self._node_of(slot), other_than=node_id)
        slot.deaths_in_a_row = 0
        await self._replace(slot)

    def _is_given_up(self, slot: WorkerSlot) -> bool:
        """True if a worker that does not become ready is to stay away: it was tried often, and others are there."""
        if slot.deaths_in_a_row < self.settings.max_worker_deaths or not self.router.num_ready:
            return False
        log.error("worker %d is given up after %d tries, and the others go on", slot.index, slot.deaths_in_a_row)
        return True

    def _new_worker(self, slot: WorkerSlot, node: LivingNode) -> RayWorker:
        log_file = self.log_dir / f"{self.settings.log_prefix}worker_{slot.index}.log"
        return RayWorker(self._actors, f"worker {slot.index}", log_file, self._door, node.node_id)

    def _put_in_service(self, slot: WorkerSlot, worker: RayWorker) -> None:
        slot.worker = worker
        self._spawn(self._watch(slot, worker))
        if self.settings.hang_timeout_s > 0:
            self._spawn(self._replace_if_hung(slot, worker))
        self.router.dispatch()

    async def _watch(self, slot: WorkerSlot, worker: RayWorker) -> None:
        cause = await worker.wait_until_dead()
        self.router.slot_died(slot, worker, f"{worker.name} died ({cause})")
        worker.close()

    async def _replace_if_hung(self, slot: WorkerSlot, worker: RayWorker) -> None:
        limit_s = self.settings.hang_timeout_s
        if await wait_until_hung(slot, worker, limit_s):
            self.router.slot_died(slot, worker, f"{worker.name} was ended: no step within {limit_s:g} s")
            worker.kill()

    def _on_death(self, slot: WorkerSlot, cause: str) -> None:
        log.warning("%s with %d requests; starting it again", cause, len(slot.running))
        if slot.deaths_in_a_row >= self.settings.max_worker_deaths and self._node_of(slot) == 0:
            self._on_fatal(f"{cause}: {slot.deaths_in_a_row} deaths in a row with no finished request between them")
            return
        self._spawn(self._replace(slot))

    async def _replace(self, slot: WorkerSlot) -> None:
        """Starts workers in this slot until one is ready or it has died `max_worker_deaths` times in a row.

        Such a slot of a further node is lost, as is one whose node has ended. On the first node it is the server's end.
        """
        while True:
            node = await self._nodes.find(self._node_of(slot))
            if node is None:
                self._lose(slot, "", "its node has ended")
                return
            if slot.deaths_in_a_row >= self.settings.max_worker_deaths and self._node_of(slot) > 0:
                self._lose(slot, node.node_id, f"{slot.deaths_in_a_row} deaths in a row")
                return
            worker = self._new_worker(slot, node)
            try:
                await self._load(worker)
            except TrimodeError as error:
                worker.close()
                if not await self._lives(slot, node):
                    continue
                self._note_failed_start(slot, error)
                if isinstance(error, StartTimeoutError) and self._is_given_up(slot):
                    return
                if slot.deaths_in_a_row >= self.settings.max_worker_deaths and self._node_of(slot) == 0:
                    self._on_fatal(f"{error}: {slot.deaths_in_a_row} deaths in a row")
                    return
                continue
            self.restarts += 1
            log.info("%s is back (pid %d)", worker.name, worker.pid)
            self._put_in_service(slot, worker)
            if slot.index in self._lost:
                self._lost.discard(slot.index)
                self.on_change()
            return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
