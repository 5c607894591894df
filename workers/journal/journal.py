"""The journal of a worker: follows its running requests, and finds those that an earlier worker has begun."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

from trimode.core.continuation import Continuation, request_digest
from trimode.core.protocol import DecodeParams
from trimode.core.worker import WorkerInfo
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.journal.lines import SUFFIX
from trimode.workers.journal.reader import JournalReader
from trimode.workers.journal.writer import JournalWriter

EVERY_S = 1.0
"""Longest time between two lines of a running request."""
LOOK_EVERY_S = 0.05
"""Shortest time between them, and how often the running requests are looked at."""
SHARE = 0.004
"""Part of the time that lines may take. The more requests run, the less often each of them is written down."""
FIRST_COST_S = 0.0003
"""CPU time of a line before lines were measured."""
FIRST_LINES = 10
"""Lines for which this guess stands in the mean."""


def token_identity(info: WorkerInfo) -> str:
    """Returns a hash of what the tokens of a request depend on beside it: weights, kernels, device."""
    facts = info.to_json()
    names = ("weights_sha256", "lora_sha256", "dtype", "quantization", "quantized", "batch_invariant", "device_name")
    kernels = {operator: choice for operator, choice in info.kernels.items() if operator != "graphs"}  # has seconds
    text = json.dumps([kernels, info.device.partition(":")[0], *(facts[name] for name in names)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Place:
    """How far a request is written down."""

    __slots__ = ("due", "entries", "tokens")

    def __init__(self, due: float) -> None:
        self.due = due
        self.tokens = 0
        self.entries = 0


class Journal:
    """`find` may be called by any thread, everything else by the engine's thread alone."""

    def __init__(self, folder: Path, prefix: str, identity: str) -> None:
        """Writes nothing before a request has run for LOOK_EVERY_S or longer: its time between two lines.

        Args:
            folder: of the journals of all workers that may take over from each other.
            prefix: beginning of the name of this worker's file.
            identity: what the tokens depend on beside the request. Journals with another one are not read.
        """
        name = f"{prefix}{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}{SUFFIX}"
        self._writer = JournalWriter(folder / name, identity)
        self._reader = JournalReader(folder, identity)
        self._places: dict[Request, _Place] = {}
        self._next_look = 0.0
        self.num_lines = 0
        self._spent_s = FIRST_LINES * FIRST_COST_S
        """CPU time that the lines have taken in the engine's thread."""

    def find(self, prompt_ids: Sequence[int], params: DecodeParams) -> Continuation | None:
        """Returns where a request goes on that an earlier worker has begun; None if it begins."""
        found = self._reader.find(request_digest(prompt_ids, params))
        return None if found is None or found.end >= params.max_new_tokens else found

    def after_step(
        self, running: Collection[Request], ended: Iterable[Request], flushes: Sequence[Future[None]] = ()
    ) -> None:
        """Writes down what is due. Called after each step.

        Args:
            running: the requests that go on.
            ended: those that have ended since the last call.
            flushes: if there are any, all running requests are written down now, and these end when that is on the
                disk.
        """
        for request in ended:
            self._end(request)
        if flushes:
            self._flush(running, flushes)
        now = time.monotonic()
        if now < self._next_look or self._writer.failed:
            return
        self._next_look = now + LOOK_EVERY_S
        self._look(running, now)

    def _look(self, running: Collection[Request], now: float) -> None:
        began, due = time.thread_time(), None
        for request in running:
            place = self._places.get(request)
            if place is not None and now < place.due:
                continue
            due = due or now + self._pause_s(running)
            if place is None:
                self._places[request] = _Place(due)
            else:
                self.num_lines += self._write(request, place)
                place.due = due
        self._spent_s += time.thread_time() - began

    def _pause_s(self, running: Collection[Request]) -> float:
        """Returns the time between two lines of a request: as short as the cost of lines allows."""
        cost_s = (self._spent_s + self._writer.cpu_s) / (self.num_lines + FIRST_LINES)
        return min(EVERY_S, max(LOOK_EVERY_S, len(running) * cost_s / SHARE))

    def close(self, running: Iterable[Request], flushes: Sequence[Future[None]]) -> None:
        """Writes down all running requests and ends. `flushes`: as in `after_step`."""
        self._flush(running, flushes)
        self._writer.close()

    def _flush(self, running: Iterable[Request], flushes: Iterable[Future[None]]) -> None:
        for request in running:
            self._write(request, self._places.setdefault(request, _Place(0.0)))
        for done in flushes:
            self._writer.flush(done)

    def _write(self, request: Request, place: _Place) -> bool:
        """Writes down what is new of a request. Returns False if there is nothing."""
        if len(request.state.output) <= place.tokens:
            return False  # or it started again from its prompt and has not caught up
        part = request.boundary(place.tokens, place.entries)
        if part is None:
            return False
        place.tokens = part.end
        place.entries += len(part.trace or ())
        self._writer.add(part)
        return True

    def _end(self, request: Request) -> None:
        place = self._places.pop(request, None)
        if request.cancelled:
            place = place or _Place(0.0)
            self._write(request, place)  # its client may ask again
        failed = request.error is not None and not request.cancelled
        if place is not None and place.tokens:
            self._writer.end(request.digest, failed=failed)
        elif failed and request.state.continued is not None:
            self._writer.end(request.state.continued.digest, failed=True)
