"""A worker with the timing of a model and without one: a step of fixed length gives every running request one token."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping

from trimode.core.delta import Delta, OnDelta
from trimode.core.protocol import FORWARD_KINDS, Cost, Generation, WorkerSettings
from trimode.core.worker import Worker, WorkerInfo, WorkerStats

STEP_VARIABLE = "TRIMODE_BENCH_STEP_MS"
"""Environment variable with the length of a step in milliseconds."""
PIECE = "word "


@dataclasses.dataclass(slots=True, eq=False)
class _Request:
    request_id: str
    left: int
    on_delta: OnDelta | None
    done: asyncio.Future[None]
    num_tokens: int = 0
    every: int = 1
    """Steps between two parts."""


class ScriptedWorker(Worker):
    """Decodes nothing. Its steps take no processor time, as those of a GPU."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._step_s = float(os.environ.get(STEP_VARIABLE, "10")) / 1e3
        self._running: list[_Request] = []
        self._waiting: list[_Request] = []
        self._stepping: asyncio.Task[None] | None = None

    def info(self) -> WorkerInfo:
        """Returns what the balancer shows of a worker."""
        return WorkerInfo(
            model=self._settings.model,
            served_model_name=self._settings.served_model_name or "scripted",
            device="cpu",
            device_name="none",
            dtype=self._settings.dtype,
            kernels={},
            max_model_len=4096,
            max_num_seqs=self._settings.max_num_seqs,
            lora=False,
            vocab_size=256,
            weights_sha256="",
            lora_sha256=None,
            versions={},
        )

    async def stats(self) -> WorkerStats:
        """Returns zeros."""
        return WorkerStats()

    async def cancel(self, request_id: str) -> None:
        """Ends a request at the next step."""
        for request in [*self._running, *self._waiting]:
            if request.request_id == request_id:
                request.left = 0

    def close(self) -> None:
        """Does nothing: there is no thread to end."""

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None = None) -> Generation:
        """Returns `max_new_tokens` words, one per step."""
        limit = fields.get("max_new_tokens")
        assert isinstance(limit, int)
        request = _Request(str(fields["request_id"]), limit, on_delta, asyncio.get_running_loop().create_future())
        every_s = fields.get("parts_every_s")
        if isinstance(every_s, float):
            request.every = max(1, round(every_s / self._step_s))
        self._waiting.append(request)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.ensure_future(self._run())
        await request.done
        return Generation(
            request_id=request.request_id,
            token_ids=[1] * request.num_tokens,
            text=PIECE * request.num_tokens,
            finish_reason="length",
            cost=Cost(
                prompt_tokens=100,
                completion_tokens=request.num_tokens,
                forwards=dict.fromkeys(FORWARD_KINDS, 0) | {"prefill": 1, "decode": request.num_tokens - 1},
                nfe=request.num_tokens,
            ),
            trace=None,
        )

    async def _run(self) -> None:
        """Steps while there are requests. Each step ends when it is due, however late the host was with the last.

        So it is with a GPU, whose next step is launched before the host has handed out what the last one brought. What
        a host is late by more than a step is lost.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._running or self._waiting:
            due = max(due + self._step_s, loop.time())
            room = self._settings.max_num_seqs - len(self._running)
            self._running += self._waiting[:room]
            del self._waiting[:room]
            await asyncio.sleep(due - loop.time())
            for request in self._running:
                self._advance(request)
            self._running = [request for request in self._running if not request.done.done()]

    def _advance(self, request: _Request) -> None:
        if request.left > 0:
            request.left -= 1
            request.num_tokens += 1
            if request.on_delta is not None and request.num_tokens % request.every == 0:
                new, text = request.every, PIECE if request.every == 1 else ""
                request.on_delta(Delta(token_ids=[1] * new, text=text, boundary=_boundary(request.num_tokens, new)))
        if request.left <= 0:
            request.done.set_result(None)


def _boundary(num_tokens: int, new: int) -> dict[str, object]:
    """Returns what the real worker says of where a request can go on. `new`: tokens since it said so before."""
    forwards = {"prefill": 1, "decode": num_tokens - 1}
    return {"digest": "0123456789abcdef0123456789abcdef", "forwards": forwards, "start": num_tokens - new}
