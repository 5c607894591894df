"""A request and a worker as the router sees them, and what comes of a request: a reply or a full queue."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from trimode.balancer.delivered import Delivered
from trimode.core.errors import GenerationError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker

MAX_ATTEMPTS = 3
"""Attempts per request. The last one has a worker for itself, so that a request that kills workers takes no other
request down, and no other takes it down."""


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
    delivered: Delivered | None = None
    """Takes the parts of the answer as they come; None = it is wanted as a whole."""
    arrived: float = field(default_factory=time.monotonic)
    attempts: int = 0
    last_slot: WorkerSlot | None = None
    """The worker that died with it, or that works on it now."""
    cost: float = 0.0
    """Estimated tokens, as added to its slot's `outstanding`."""


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """One worker's place in the balancer; the process behind it may be replaced."""

    index: int
    worker: Worker | None = None
    """None while no worker is ready here."""
    running: dict[str, WorkItem] = field(default_factory=dict)
    outstanding: float = 0.0
    """Estimated tokens still to be generated here."""
    finished: int = 0
    failed: int = 0
    deaths: int = 0
    deaths_in_a_row: int = 0
    """Deaths while idle or starting since the last finished request. A death with requests is charged to them: each has
    MAX_ATTEMPTS, then it fails."""

    @property
    def taken_alone(self) -> bool:
        """True if the request that runs here is on its last attempt."""
        return any(item.attempts >= MAX_ATTEMPTS for item in self.running.values())


class QueueFullError(GenerationError):
    """There is no room for a request now; `retry_after_s` is a guess of when there will be."""

    def __init__(self, what: str, retry_after_s: int) -> None:
        super().__init__(f"{what}, which is the limit; try again later", 429)
        self.retry_after_s = retry_after_s
