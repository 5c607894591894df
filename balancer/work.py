"""A request and a worker as the router sees them, and what comes of a request: a reply or a full queue."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trimode.balancer.delivered import Delivered
from trimode.balancer.health import MANY, Health
from trimode.balancer.prefixes import Beginning
from trimode.core.errors import GenerationError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker

log = logging.getLogger("trimode.balancer")

MAX_ATTEMPTS = 3
"""Attempts per request. The last one has a worker for itself, so that a request that kills workers takes no other
request down, and no other takes it down."""
RETRY_AFTER_STOP_S = 10
"""Seconds after which a client of a server that stops may ask again, in the hope of another server."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the client of one request gets."""

    generation: Generation
    waited_s: float
    """Seconds between the request's arrival and its hand-over to the worker that answered."""


@dataclass(slots=True, eq=False)
class WorkItem:
    """One request that waits or runs."""

    request_id: str
    """Unlike that of any other request in the balancer."""
    fields: dict[str, Any]
    prompt_tokens: int
    """Estimate, for weighing only."""
    done: asyncio.Future[Reply]
    beginnings: Sequence[Beginning] = ()
    """Of its prompt."""
    delivered: Delivered | None = None
    """Takes the parts of the answer as they come; None = it is wanted as a whole, and a journal has them."""
    arrived: float = field(default_factory=time.monotonic)
    attempts: int = 0
    last_slot: WorkerSlot | None = None
    """The worker that died with it, or that works on it now."""
    cost: float = 0.0
    """Estimated tokens, as added to its slot's `outstanding`."""

    def fails_with(self, error: Exception) -> bool:
        """True if `error` is a failure of the worker: not if the request was refused, or its client has left."""
        refused = isinstance(error, GenerationError) and error.status < 500
        return not (refused or self.done.cancelled())


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """One worker's place in the balancer; the process behind it may be replaced."""

    index: int
    worker: Worker | None = None
    """None while no worker is ready here."""
    running: dict[str, WorkItem] = field(default_factory=dict)
    outstanding: float = 0.0
    """Estimated tokens still to be generated here."""
    taken_alone: bool = False
    """True if the one request that runs here is on its last attempt."""
    finished: int = 0
    failed: int = 0
    health: Health = field(default_factory=Health)
    """Of the worker that is here now."""
    deaths: int = 0
    deaths_in_a_row: int = 0
    """Deaths while idle or starting since the last finished request. A death with requests is charged to them: each has
    MAX_ATTEMPTS, then it fails."""


class TryLaterError(GenerationError):
    """A request is not taken now; `retry_after_s` is a guess of when it would be."""

    def __init__(self, message: str, status: int, retry_after_s: int) -> None:
        super().__init__(message, status)
        self.retry_after_s = retry_after_s


class QueueFullError(TryLaterError):
    """There is no room for a request now."""

    def __init__(self, what: str, retry_after_s: int) -> None:
        super().__init__(f"{what}, which is the limit; try again later", 429, retry_after_s)


class StoppingError(TryLaterError):
    """The server takes no more requests, since it was told to stop."""

    def __init__(self) -> None:
        super().__init__("the server is stopping", 503, RETRY_AFTER_STOP_S)


def reply_of(generation: Generation, item: WorkItem, started: float) -> Reply:
    """Returns the reply to a request whose last attempt began at `started`."""
    first = None if item.delivered is None else item.delivered.first_token
    if first is not None and first < started:  # a worker that has died gave it; the clock of the last one begins anew
        cost = dataclasses.replace(generation.cost, first_token_s=first - started)
        generation = dataclasses.replace(generation, cost=cost)
    return Reply(generation, waited_s=started - item.arrived)


def in_health(ready: list[WorkerSlot]) -> list[WorkerSlot]:
    """Returns the slots without those that fail and rest. All of them if none answers: then it is not the workers."""
    if any(slot.health.fails for slot in ready) and not all(slot.health.fails for slot in ready):
        return [slot for slot in ready if not slot.health.fails or not (slot.running or slot.health.rests())]
    return ready


def another_may_answer(slots: Sequence[WorkerSlot], slot: WorkerSlot, item: WorkItem, error: Exception) -> bool:
    """Notes that a request has failed in a slot. True if another worker is to try it too.

    That is so at the first try if this worker has failed the request before as well, and another one is in health.
    """
    if item.done.done() or not item.fails_with(error):
        return False
    slot.health.failed()
    if slot.health.failures == MANY:
        log.warning("worker %d has failed %d requests in a row; it gets one now and then", slot.index, MANY)
    in_place = any(other.worker is not None and not other.health.fails for other in slots if other is not slot)
    return in_place and slot.health.failures > 1 and item.attempts == 1
