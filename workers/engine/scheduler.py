"""Which requests run in the next step, what each of them runs, and the pages they hold.

Needs no tensor library: decoding states and page numbers are plain Python.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from trimode.core.errors import GenerationError
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.pages import PageAllocator

PREFILL_SLICE = 512
"""Most prompt tokens of one request per step; a longer prompt takes several steps. A constant, so that a request's
forwards do not depend on its batch-mates."""
MAX_STEP_PREFILL = 2048
"""Most prompt tokens of all requests per step. At the limit the other prompts wait for the next step, so that long
prompts do not hold up decoding."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside the engine. Times are in seconds of `time.perf_counter`."""

    request_id: str
    state: DecodeState
    arrived: float = field(default_factory=time.perf_counter)
    pages: list[int] = field(default_factory=list)
    """Pages of the KV cache, in the order of the tokens; empty while the request waits and after its end."""
    started: float | None = None
    """When it left the queue; None while it waits."""
    first_token: float | None = None
    """When its first token was committed; None before that."""
    ended: float | None = None
    """When its pages were released; None before that."""
    error: GenerationError | None = None
    """Why it failed; None if it did not."""
    cancelled: bool = False
    """True if it is to end at the next step."""
    num_shared_tokens: int = 0
    """Prompt tokens whose KV an earlier request had computed."""


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """A request and its part of the next forward."""

    sequence: Sequence
    chunk: Chunk


class Scheduler:
    """Holds all requests of the engine. First come, first served."""

    def __init__(
        self, allocator: PageAllocator, max_num_seqs: int, *, max_step_prefill: int = MAX_STEP_PREFILL
    ) -> None:
        self.allocator = allocator
        self.max_num_seqs = max_num_seqs
        """Most requests that run at once. May be changed between steps."""
        self.max_step_prefill = max_step_prefill
        self.waiting: deque[Sequence] = deque()
        """Requests without pages, oldest first."""
        self.running: list[Sequence] = []
        """Requests with pages, in order of admission."""
        self._ended: list[Sequence] = []
        """Requests that ended and still hold their pages."""

    def add(self, sequence: Sequence) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request at the next step, with GenerationError (499)."""
        sequence.cancelled = True

    def schedule(self) -> list[ScheduledChunk]:
        """Drops cancelled requests and admits waiting ones. Returns what runs in this step, in order of admission."""
        self._drop_cancelled()
        self._admit()
        return self._gather()

    def advance(self, sequence: Sequence, chunk: Chunk, sampled: Sampled) -> None:
        """Hands the result of its chunk to a running request, which may end by it."""
        state = sequence.state
        was_prefilling = state.cached < len(state.prompt_ids)
        self._guarded(sequence, state.advance, chunk, sampled)
        if sequence.error is not None:
            return
        if was_prefilling and state.cached >= len(state.prompt_ids) and state.causal_prompt:
            self.allocator.share(sequence.pages, state.prompt_ids)
        if sequence.first_token is None and state.output:
            sequence.first_token = time.perf_counter()
        if state.finish_reason is not None:
            self.end(sequence)

    def end(self, sequence: Sequence, error: GenerationError | None = None) -> None:
        """Takes a request out of the running ones. It keeps its pages until `release_ended`."""
        sequence.error = error
        self.running.remove(sequence)
        self._ended.append(sequence)

    def release_ended(self) -> list[Sequence]:
        """Releases the pages of all requests that ended since the last call. Returns these requests."""
        ended, self._ended = self._ended, []
        for sequence in ended:
            sequence.ended = time.perf_counter()
            # After an internal error nobody knows what the pages hold, so later prompts must not reuse them.
            broken = sequence.error is not None and sequence.error.status == 500
            self.allocator.release(sequence.pages, forget=broken)
            sequence.pages = []
        return ended

    def _drop_cancelled(self) -> None:
        cancelled = [s for s in (*self.running, *self.waiting) if s.cancelled]
        if not cancelled:
            return
        for sequence in cancelled:
            sequence.error = GenerationError("the request was cancelled", status=499)
        self.running = [s for s in self.running if not s.cancelled]
        self.waiting = deque(s for s in self.waiting if not s.cancelled)
        self._ended += cancelled

    def _admit(self) -> None:
        """Starts waiting requests while their largest possible need of pages fits: a running one never runs out."""
        allocator = self.allocator
        while self.waiting and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            state = sequence.state
            shared = allocator.match(state.prompt_ids) if state.causal_prompt else []
            own = allocator.allocate(allocator.pages_for(state.max_kv_tokens) - len(shared))
            if own is None:
                allocator.release(shared)
                return
            sequence.pages = shared + own
            sequence.num_shared_tokens = len(shared) * allocator.page_size
            state.skip_prefix(sequence.num_shared_tokens)
            sequence.started = time.perf_counter()
            self.running.append(self.waiting.popleft())

    def _gather(self) -> list[ScheduledChunk]:
        scheduled = []
        prefill = 0
        for sequence in list(self.running):
            chunk = self._guarded(sequence, sequence.state.next_chunk)
            if chunk is None:
                continue
            if chunk.kind == "prefill":
                if prefill and prefill + len(chunk.token_ids) > self.max_step_prefill:
                    continue
                prefill += len(chunk.token_ids)
            scheduled.append(ScheduledChunk(sequence, chunk))
        return scheduled

    def _guarded(self, sequence: Sequence, call: Callable[..., T], *arguments: object) -> T | None:
        """Calls into the decoder of one request. An exception there ends this request only, and None is returned."""
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001 -- one of the named boundaries: one request in the engine
            message = f"generation failed: {type(error).__name__} in the decoder"
            self.end(sequence, GenerationError(message, status=500))
            return None
