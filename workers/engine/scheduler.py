"""Which requests run in the next step, what each of them runs, and the pages they hold.

Needs no tensor library: decoding states and page numbers are plain Python.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from trimode.core.continuation import Continuation, request_digest
from trimode.core.errors import GenerationError
from trimode.core.protocol import DecodeParams
from trimode.workers.boundary import one_request
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.pages import PageAllocator

PREFILL_SLICE = 512
"""Most prompt tokens of one request per step; a longer prompt takes several steps. A constant, so that a request's
forwards do not depend on its batch-mates."""
MAX_STEP_PREFILL = 2048
"""Most prompt tokens of all requests per step. At the limit the other prompts wait for the next step, so that long
prompts do not hold up decoding."""
CANCELLED = "the request was cancelled"

T = TypeVar("T")
_DECODER = one_request("the decoder")


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
    may_share: bool = True
    """False if it must compute all of its prompt itself."""
    params: DecodeParams | None = None
    """As the request gave them; None = as the state has them."""
    digest: str = ""
    """Names the request by its content; empty until `boundary` is called."""

    def boundary(self, start: int = 0, trace_start: int = 0) -> Continuation | None:
        """Returns the request at its last boundary; None if it has no output yet, has ended, or cannot be continued.

        Args:
            start: number of tokens that the caller has already.
            trace_start: number of entries of the trace that the caller has already.
        """
        self.digest = self.digest or request_digest(self.state.prompt_ids, self.params or self.state.params)
        return self.state.boundary(self.digest, start, trace_start)


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
        self._unclean: list[int] = []
        """Free pages in which a failed or cancelled request may have left values that are not finite."""
        self._in_flight: set[Sequence] = set()
        """Requests in the step that was launched ahead of the results of the one before it."""
        self._held: list[tuple[list[int], bool]] = []
        """Pages that such requests had when they ended, with True if they may hold values that are not finite."""

    def add(self, sequence: Sequence) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request at the next step, with GenerationError (499)."""
        sequence.cancelled = True

    def schedule(self) -> list[ScheduledChunk]:
        """Drops cancelled requests and admits waiting ones. Returns what runs in this step, in order of admission."""
        self.drop_cancelled()
        self._admit()
        return self.gather()

    def following(self, items: Iterable[ScheduledChunk]) -> list[ScheduledChunk]:
        """Returns what runs in the step after these chunks, which still run.

        Args:
            items: of requests that run and have not seen their results yet.

        Returns:
            Empty if it is not known: a request that runs is not among them or depends on its result, or one that waits
            can start now.
        """
        self._admit()
        current = {item.sequence: item.chunk for item in items}
        ahead: list[ScheduledChunk] = []
        for sequence in self.running:
            chunk = current.get(sequence)
            following = None if chunk is None else _unless_it_raises(sequence.state, chunk)
            if following is None:
                return []
            ahead.append(ScheduledChunk(sequence, following))
        return ahead

    def hold(self, sequences: Iterable[Sequence]) -> None:
        """Keeps the pages of requests that the device works for beyond their end, until the next call.

        Args:
            sequences: those in the step that was launched ahead; none if there is no such step.
        """
        self._in_flight = set(sequences)
        held, self._held = self._held, []
        for pages, unclean in held:
            self._give_back(pages, unclean=unclean)

    def next_chunk(self, sequence: Sequence) -> Chunk | None:
        """Returns what a running request runs next. None if its decoder raises, which ends the request."""
        return self._guarded(sequence, sequence.state.next_chunk)

    def advance(self, sequence: Sequence, chunk: Chunk, sampled: Sampled) -> None:
        """Hands the result of its chunk to a running request, which may end by it."""
        state = sequence.state
        was_prefilling = state.cached < len(state.prompt_ids)
        self._guarded(sequence, state.advance, chunk, sampled)
        if sequence.error is not None:
            return
        if was_prefilling and state.cached >= len(state.prompt_ids) and state.causal_prompt:
            num_matched = len(self.shared_pages(sequence))
            self.allocator.share(sequence.pages, state.prompt_ids, num_matched=num_matched)
        if sequence.first_token is None and state.output:
            sequence.first_token = time.perf_counter()
        if state.finish_reason is not None:
            self.end(sequence)

    def end(self, sequence: Sequence, error: GenerationError | None = None) -> None:
        """Takes a request out of the running ones. It keeps its pages until `release_ended`."""
        sequence.error = error
        if error is not None:
            # After an internal error nobody knows what the pages hold, so later prompts must not reuse them.
            self.allocator.withdraw(sequence.pages)
        self.running.remove(sequence)
        self._ended.append(sequence)

    def start_again(self, sequence: Sequence) -> None:
        """Drops all that a running request computed and queues it first. It will compute all of its prompt itself."""
        self.allocator.withdraw(sequence.pages)
        self._let_go(sequence, unclean=True)
        state = sequence.state
        sequence.state = type(state)(state.prompt_ids, state.params, state.context)
        sequence.state.passes = None if state.passes is None else []
        sequence.num_shared_tokens = 0
        sequence.may_share = False
        sequence.first_token = None
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)

    def shared_pages(self, sequence: Sequence) -> list[int]:
        """Returns the pages of a running request that an earlier request had computed."""
        return sequence.pages[: sequence.num_shared_tokens // self.allocator.page_size]

    def take_unclean(self) -> list[int]:
        """Returns the pages to overwrite before the next step: they are free and may hold values that are not finite.

        Even a masked NaN spreads, since 0 * NaN is NaN.
        """
        unclean, self._unclean = self._unclean, []
        return unclean

    def release_ended(self) -> list[Sequence]:
        """Returns the requests that ended since the last call. Their pages are free, except those that `hold` keeps."""
        ended, self._ended = self._ended, []
        for sequence in ended:
            sequence.ended = time.perf_counter()
            self._let_go(sequence, unclean=sequence.error is not None)
        return ended

    def _let_go(self, sequence: Sequence, *, unclean: bool) -> None:
        pages, sequence.pages = sequence.pages, []
        if sequence in self._in_flight:
            self._held.append((pages, unclean))
        else:
            self._give_back(pages, unclean=unclean)

    def _give_back(self, pages: list[int], *, unclean: bool) -> None:
        freed = self.allocator.release(pages)
        if unclean:
            self._unclean += freed

    def drop_cancelled(self) -> None:
        """Ends the requests that were cancelled."""
        cancelled = [s for s in (*self.running, *self.waiting) if s.cancelled]
        if not cancelled:
            return
        for sequence in cancelled:
            sequence.error = GenerationError(CANCELLED, status=499)
        self.running = [s for s in self.running if not s.cancelled]
        self.waiting = deque(s for s in self.waiting if not s.cancelled)
        self._ended += cancelled

    def _admit(self) -> None:
        """Starts waiting requests while their largest possible need of pages fits: a running one never runs out."""
        while self.waiting and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            try:
                with _DECODER:
                    fits = self._take_pages(sequence)
            except GenerationError as error:
                sequence.error = error
                self._ended.append(self.waiting.popleft())
                continue
            if not fits:
                return
            sequence.started = time.perf_counter()
            self.running.append(self.waiting.popleft())

    def _take_pages(self, sequence: Sequence) -> bool:
        """Gives a request all pages that it may need. Returns False if there are too few now."""
        allocator, state = self.allocator, sequence.state
        needed = allocator.pages_for(state.max_kv_tokens)
        may_share = state.causal_prompt and state.params.prompt_logprobs is None and sequence.may_share
        shared = allocator.match(state.prompt_ids) if may_share else []
        own = allocator.allocate(needed - len(shared))
        if own is None:
            allocator.release(shared)
            return False
        sequence.pages = shared + own
        sequence.num_shared_tokens = len(shared) * allocator.page_size
        state.skip_prefix(sequence.num_shared_tokens)
        return True

    def gather(self) -> list[ScheduledChunk]:
        """Returns the next chunks of the running requests, as far as a step may take them."""
        scheduled = []
        prefill = 0
        for sequence in list(self.running):
            chunk = self.next_chunk(sequence)
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
            with _DECODER:
                return call(*arguments)
        except GenerationError as error:
            self.end(sequence, GenerationError(error.message, error.status))  # without the frames of its cause
        return None


def _unless_it_raises(state: DecodeState, chunk: Chunk) -> Chunk | None:
    """Returns the state's following chunk; None also if the decoder raises. It raises again when the chunk is due."""
    try:
        with _DECODER:
            return state.following(chunk)
    except GenerationError:
        return None
