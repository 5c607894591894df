"""The journal of a worker: follows its running requests, and finds those that an earlier worker has begun."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
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
"""A running request is written down at most this often. One that ends earlier is not written down at all."""
LOOK_EVERY_S = 0.1
"""How often the running requests are looked at."""


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
        """Writes nothing before a request has run for EVERY_S.

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

    def find(self, prompt_ids: Sequence[int], params: DecodeParams) -> Continuation | None:
        """Returns where a request goes on that an earlier worker has begun; None if it begins."""
        found = self._reader.find(request_digest(prompt_ids, params))
        return None if found is None or found.end >= params.max_new_tokens else found

    def after_step(
        self, running: Iterable[Request], ended: Iterable[Request], flushes: Sequence[Future[None]] = ()
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
        for request in running:
            place = self._places.get(request)
            if place is None:
                self._places[request] = _Place(now + EVERY_S)
            elif now >= place.due:
                self._write(request, place)
                place.due = now + EVERY_S

    def close(self, running: Iterable[Request], flushes: Sequence[Future[None]]) -> None:
        """Writes down all running requests and ends. `flushes`: as in `after_step`."""
        self._flush(running, flushes)
        self._writer.close()

    def _flush(self, running: Iterable[Request], flushes: Iterable[Future[None]]) -> None:
        for request in running:
            self._write(request, self._places.setdefault(request, _Place(time.monotonic() + EVERY_S)))
        for done in flushes:
            self._writer.flush(done)

    def _write(self, request: Request, place: _Place) -> None:
        if len(request.state.output) <= place.tokens:
            return  # nothing new, or it started again from its prompt and has not caught up
        part = request.boundary(place.tokens, place.entries)
        if part is None:
            return
        place.tokens = part.end
        place.entries += len(part.trace or ())
        self._writer.add(part)

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
