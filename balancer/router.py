"""Decides which worker answers which request: least outstanding work first, a bounded queue, retries after a death.

Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from trimode.balancer.delivered import PARTS_EVERY_S, Delivered
from trimode.balancer.expected import Expected
from trimode.balancer.health import Health
from trimode.balancer.prefixes import Prefixes, beginnings
from trimode.balancer.work import (
    MAX_ATTEMPTS,
    QueueFullError,
    Reply,
    StoppingError,
    WorkerSlot,
    WorkItem,
    another_may_answer,
    in_health,
    reply_of,
)
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.worker import Worker

MAX_HELD_PROMPT_TOKENS = 2**28
"""Prompts of all waiting and running requests together, about a gigabyte of text."""
PROMPT_TOKENS_PER_OUTPUT_TOKEN = 16
"""This many prompt tokens count as one generated token: a prompt is read in a few wide forwards."""
IDLE_POLL_S = 0.02


class Router:
    """Hands requests to worker slots. Calls `on_death(slot, cause)` once for each worker that turns out dead."""

    def __init__(
        self,
        slots: list[WorkerSlot],
        *,
        in_flight_limit: int,
        max_queue: int,
        on_death: Callable[[WorkerSlot, str], None],
        journal: bool = False,
    ) -> None:
        """`journal`: True if the workers find in one where a whole answer goes on, so that the router need not know."""
        self.slots = slots
        self.in_flight_limit = in_flight_limit
        self.max_queue = max_queue
        self.queue: deque[WorkItem] = deque()
        self.retried = 0
        self.cancelled = 0
        self.rejected = 0
        self.stopping = False
        """True if no more requests are taken. Those that are here go on."""
        self._keeps_parts = not journal
        self._prefixes = Prefixes()
        self._on_death = on_death
        self._expected = Expected()
        self._held_prompt_tokens = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_ready(self) -> int:
        """Workers that can take a request."""
        return sum(slot.worker is not None for slot in self.slots)

    @property
    def num_running(self) -> int:
        """Requests inside workers."""
        return sum(len(slot.running) for slot in self.slots)

    @property
    def capacity(self) -> int:
        """Most requests that this server can hold at a time: inside all its workers, and waiting."""
        return len(self.slots) * self.in_flight_limit + self.max_queue

    def check_room(self, n: int) -> None:
        """Refuses a request for n replies that cannot be taken in whole; each takes one place.

        Raises:
            GenerationError: status 400; it would not fit if the server were idle.
            TryLaterError: it does not fit now, or the server is stopping.
        """
        if self.stopping:
            raise StoppingError
        if n > self.capacity:
            raise GenerationError(f"n: got {n}; valid here: at most {self.capacity}, the places in workers and queue")
        waiting = self.max_queue - len(self.queue)
        if n > waiting and n > waiting + sum(self.in_flight_limit - len(slot.running) for slot in self._free_slots()):
            raise self._queue_full()

    async def submit(
        self, request_id: str, fields: dict[str, Any], prompt_tokens: int, on_delta: OnDelta | None = None
    ) -> Reply:
        """Queues a request and waits for its reply. Cancelling the call cancels the generation.

        With `on_delta`, the parts of the answer are handed out as they come.

        Raises:
            GenerationError: the request is refused, failed or was ended.
            TryLaterError: too many requests are waiting, or the server is stopping.
            WorkerError: every worker that took it died.
        """
        if self.stopping:
            raise StoppingError
        done = asyncio.get_running_loop().create_future()
        item = WorkItem(request_id, fields, prompt_tokens, done, beginnings(fields))
        if on_delta is not None or self._keeps_parts:
            item.delivered = Delivered(on_delta)
        if on_delta is None and self._keeps_parts:
            fields["parts_every_s"] = PARTS_EVERY_S
        # a request that a free slot takes at once never meets a full queue
        if len(self.queue) >= self.max_queue:
            raise self._queue_full()
        if self._held_prompt_tokens + prompt_tokens > MAX_HELD_PROMPT_TOKENS:
            raise self._queue_full(f"the prompts that wait or run hold {self._held_prompt_tokens} tokens already")
        self._held_prompt_tokens += prompt_tokens
        self.queue.append(item)
        self.dispatch()
        try:
            return await item.done
        except asyncio.CancelledError:
            self._cancel(item)
            raise
        finally:
            self._held_prompt_tokens -= prompt_tokens

    def dispatch(self) -> None:
        """Gives waiting requests to workers with room, oldest first. Call it whenever either may have changed."""
        blocked: list[WorkItem] = []
        aside = self._slot_to_empty()
        while self.queue and self._free_slots():
            item = self.queue.popleft()
            if item.done.done():
                continue
            slot = self._pick(item, aside)
            if slot is None or slot.worker is None:
                blocked.append(item)
            else:
                self._run_on(slot, slot.worker, item)
        self.queue.extendleft(reversed(blocked))

    def slot_died(self, slot: WorkerSlot, worker: Worker, cause: str) -> None:
        """Takes a dead worker out of service, once. Its requests are queued again as their calls fail."""
        if slot.worker is not worker:
            return
        slot.worker = None
        slot.health = Health()
        self._prefixes.forget(slot.index)
        slot.deaths += 1
        slot.deaths_in_a_row += not slot.running
        self._on_death(slot, cause)

    async def wait_until_idle(self) -> None:
        """Returns when no request waits or runs."""
        while self.queue or self.num_running:
            await asyncio.sleep(IDLE_POLL_S)

    def fail_all(self, error: Exception) -> None:
        """Ends every waiting and running request with `error`. Used when the process ends."""
        items = [*self.queue, *(item for slot in self.slots for item in slot.running.values())]
        self.queue.clear()
        for item in items:
            if not item.done.done():
                item.done.set_exception(error)

    def _free_slots(self) -> list[WorkerSlot]:
        ready = in_health([slot for slot in self.slots if slot.worker is not None])
        return [slot for slot in ready if len(slot.running) < self.in_flight_limit and not slot.taken_alone]

    def _slot_to_empty(self) -> WorkerSlot | None:
        """Returns the slot that gets nothing new, so that a waiting last attempt can have it for itself, or None."""
        if not any(item.attempts == MAX_ATTEMPTS - 1 and not item.done.done() for item in self.queue):
            return None
        ready = [slot for slot in self.slots if slot.worker is not None]
        alone = any(slot.taken_alone for slot in ready)
        return None if alone else min(ready, key=lambda slot: (len(slot.running), slot.index), default=None)

    def _pick(self, item: WorkItem, aside: WorkerSlot | None) -> WorkerSlot | None:
        """Returns the free slot with the least outstanding work, or None; after a death another one if possible.

        A slot that has the beginning of the prompt goes first, while it is at most one reply behind, and not
        further than that beginning is long.
        A last attempt gets only an empty slot, and other requests do not get the one that is kept `aside` for it.
        """
        if item.attempts == MAX_ATTEMPTS - 1:
            free = [slot for slot in self._free_slots() if not slot.running]
        else:
            free = [slot for slot in self._free_slots() if slot is not aside]
        best = min(free, key=lambda slot: (slot is item.last_slot, slot.outstanding, slot.index), default=None)
        indices, tokens = self._prefixes.find(item.beginnings)
        holders = [slot for slot in free if slot.index in indices and slot is not item.last_slot]
        if best is None or not holders:
            return best
        holder = min(holders, key=lambda slot: (slot.outstanding, slot.index))
        most = min(tokens, self._expected.tokens + tokens / PROMPT_TOKENS_PER_OUTPUT_TOKEN)
        return holder if holder.outstanding - best.outstanding <= most else best

    def _run_on(self, slot: WorkerSlot, worker: Worker, item: WorkItem) -> None:
        limit = item.fields.get("max_new_tokens")
        expected = self._expected.tokens
        if isinstance(limit, int) and not isinstance(limit, bool):
            expected = min(expected, limit)
        item.cost = expected + item.prompt_tokens / PROMPT_TOKENS_PER_OUTPUT_TOKEN
        item.attempts += 1
        item.last_slot = slot
        slot.running[item.request_id] = item
        slot.taken_alone = item.attempts >= MAX_ATTEMPTS
        self._prefixes.note(item.beginnings, slot.index)
        slot.outstanding += item.cost
        self._spawn(self._call(slot, worker, item))

    async def _call(self, slot: WorkerSlot, worker: Worker, item: WorkItem) -> None:
        """One attempt on one worker. The request keeps its place there until the worker has answered."""
        started = time.monotonic()
        cause: str | None = None
        try:
            generation = await worker.generate(item.fields, self._listener(worker, item))
        except WorkerError as error:
            self.slot_died(slot, worker, cause := str(error))
        except Exception as error:  # noqa: BLE001 -- a GenerationError, or a defect, which must not leave anybody waiting
            slot.failed += item.fails_with(error)
            slot.deaths_in_a_row = 0
            if slot.worker is worker and another_may_answer(self.slots, slot, item, error):
                cause = str(error)
            elif not item.done.done():
                item.done.set_exception(error)
        else:
            slot.finished += 1
            slot.health.answered()
            slot.deaths_in_a_row = 0
            self._expected.learn(len(generation.token_ids), time.monotonic() - started)
            if not item.done.done():
                item.done.set_result(reply_of(generation, item, started))
        self._leave(slot, item)
        if cause is not None:
            self._again(item, cause)

    def _listener(self, worker: Worker, item: WorkItem) -> OnDelta | None:
        """Returns what takes the parts of the answer from this worker. If that fails, the request alone ends."""
        delivered = item.delivered
        if delivered is None:
            return None

        def take(delta: Delta) -> None:
            if item.done.done():
                return
            try:
                delivered.take(delta)
            except Exception as error:  # noqa: BLE001 -- raised further, it would end the connection to the worker
                item.done.set_exception(error)
                self._spawn(worker.cancel(item.request_id))

        return take

    def _leave(self, slot: WorkerSlot, item: WorkItem) -> None:
        del slot.running[item.request_id]
        slot.taken_alone = False
        slot.outstanding = slot.outstanding - item.cost if slot.running else 0.0
        self.dispatch()

    def _again(self, item: WorkItem, cause: str) -> None:
        if item.done.done():
            return
        if item.attempts >= MAX_ATTEMPTS:
            message = f"every worker that took this request died ({item.attempts} attempts); the last: {cause}"
            item.done.set_exception(WorkerError(message))
            return
        self.retried += 1
        if item.delivered is not None and (continuation := item.delivered.go_on()) is not None:
            item.fields["continuation"] = continuation
        self.queue.appendleft(item)
        self.dispatch()

    def _cancel(self, item: WorkItem) -> None:
        """Removes a waiting request, or has its worker end a running one. Called when the client has left."""
        self.cancelled += 1
        if item in self.queue:
            self.queue.remove(item)
        slot = item.last_slot
        if slot is None or slot.worker is None or item.request_id not in slot.running:
            return
        self._spawn(slot.worker.cancel(item.request_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _queue_full(self, what: str = "") -> QueueFullError:
        self.rejected += 1
        seconds = self._expected.retry_after_s(len(self.queue), self.num_ready * self.in_flight_limit)
        return QueueFullError(what or f"{self.max_queue} requests are waiting already", seconds)
