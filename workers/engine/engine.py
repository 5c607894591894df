"""The engine: many requests of all modes, one ragged forward per step, each request counted exactly.

Each step gathers one chunk per running request, runs them together and hands the samples back; requests join and leave
between steps. Knows states by their seam only, never by mode; knows nothing of text, HTTP or threads.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

from trimode.core.errors import GenerationError
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.decode.registry import MODES
from trimode.workers.decode.state import DecodeContext, StopFinder
from trimode.workers.engine.counters import EngineCounters
from trimode.workers.engine.pages import PageAllocator
from trimode.workers.engine.scheduler import MAX_STEP_PREFILL, PREFILL_SLICE, Sequence
from trimode.workers.model.batch import pack
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache, pages_for
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.params import check_fits
from trimode.workers.sampling.sampler import Sampler, SampleRequest


@dataclass(frozen=True, slots=True)
class SampledChunk:
    """A chunk and what came back for it."""

    chunk: Chunk
    sampled: Sampled


class Engine:
    """Runs requests on one model. Not thread-safe: one thread adds, steps and cancels."""

    def __init__(self, model: TriModeModel, num_pages: int, max_num_seqs: int) -> None:
        self.model = model
        self.cache = KVCache(model.config, num_pages, model.dtype, model.device)
        self.allocator = PageAllocator(num_pages)
        self.max_num_seqs = max_num_seqs
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counters = EngineCounters()
        self._sampler = Sampler(model.head, model.config.mask_token_id)

    @property
    def max_model_len(self) -> int:
        """Prompt and output tokens of one request at most: the model's context, or what the cache can hold."""
        return min(self.model.config.max_position_embeddings, self.allocator.num_pages * PAGE_SIZE)

    def check(self, num_prompt: int, params: DecodeParams) -> None:
        """Refuses a request that can never run. GenerationError (400) with the numbers."""
        limit = self.model.config.max_position_embeddings
        check_fits(num_prompt, params, limit, has_adapter=self.model.adapter is not None)
        end_think = params.end_think_token_id
        if end_think is not None and end_think >= self.model.config.vocab_size:
            raise GenerationError(f"end_think_token_id: got {end_think}; valid: below {self.model.config.vocab_size}")

    def add(
        self, request_id: str, prompt_ids: list[int], params: DecodeParams, find_stop: StopFinder | None = None
    ) -> Sequence:
        """Queues a request; it joins at one of the next steps.

        Raises:
            GenerationError: it can never run (context, cache size, adapter).
        """
        self.check(len(prompt_ids), params)
        config = self.model.config
        ends = frozenset((*config.eos_token_ids, *params.stop_token_ids))
        context = DecodeContext(config.mask_token_id, ends, PREFILL_SLICE, find_stop)
        state = MODES[params.mode](prompt_ids, params, context)
        needed, total = pages_for(state.max_kv_tokens), self.allocator.num_pages
        if needed > total:
            raise GenerationError(
                f"KV cache: the request needs {needed} pages of {PAGE_SIZE} tokens ({len(prompt_ids)} prompt + "
                f"{params.max_new_tokens} new + scratch), the cache has {total}"
            )
        sequence = Sequence(request_id, state)
        self.waiting.append(sequence)
        return sequence

    def warm_up(self) -> None:
        """Runs one forward for nobody, which compiles what the first request would wait for."""
        chunk = Chunk("decode", [0, 0], 0, causal=True, keep_kv=False, rows=range(2), purpose="warm-up")
        hidden = self.model.forward(pack([chunk], [[0]], PAGE_SIZE, self.model.device), self.cache)
        params = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)
        self._sampler(hidden, [SampleRequest(chunk, params)])
        self.cache.clear([0])

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request at the next step with an error of its own (499)."""
        sequence.cancelled = True

    @property
    def busy(self) -> bool:
        """Whether a step has work."""
        return bool(self.waiting or self.running)

    def step(self) -> list[Sequence]:
        """Runs one forward; returns the requests that ended in this step, in error or not."""
        began = time.perf_counter()
        ended = self._drop_cancelled()
        self._admit()
        chosen, chunks = self._gather(ended)
        if chunks:
            self._run(chosen, chunks, ended, began)
        for sequence in ended:
            self._release(sequence)
        return ended

    def _drop_cancelled(self) -> list[Sequence]:
        ended = [s for s in (*self.running, *self.waiting) if s.cancelled]
        for sequence in ended:
            sequence.error = GenerationError("the request was cancelled", status=499)
        if ended:
            self.running = [s for s in self.running if not s.cancelled]
            self.waiting = deque(s for s in self.waiting if not s.cancelled)
        return ended

    def _admit(self) -> None:
        """First come, first served: a request waits until its worst case fits, so a running one never runs out."""
        allocator = self.allocator
        while self.waiting and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            prompt = sequence.state.prompt_ids
            shared = allocator.match(prompt) if sequence.state.causal_prompt else []
            own = allocator.allocate(pages_for(sequence.state.max_kv_tokens) - len(shared))
            if own is None:
                allocator.release(shared)
                return
            sequence.pages = shared + own
            sequence.num_shared_tokens = sequence.state.cached = len(shared) * PAGE_SIZE
            sequence.started = time.perf_counter()
            self.running.append(self.waiting.popleft())

    def _gather(self, ended: list[Sequence]) -> tuple[list[Sequence], list[Chunk]]:
        chosen, chunks = [], []
        prefill = 0
        for sequence in list(self.running):
            chunk = self._guarded(sequence, ended, None)
            if chunk is None:
                continue
            if chunk.kind == "prefill":
                if prefill and prefill + len(chunk.token_ids) > MAX_STEP_PREFILL:
                    continue
                prefill += len(chunk.token_ids)
            chosen.append(sequence)
            chunks.append(chunk)
        return chosen, chunks

    def _guarded(self, sequence: Sequence, ended: list[Sequence], done: SampledChunk | None) -> Chunk | None:
        """The boundary of one request: an exception in its state ends it and nobody else."""
        try:
            if done is None:
                return sequence.state.next_chunk()
            sequence.state.advance(done.chunk, done.sampled)
        except Exception as error:  # noqa: BLE001 -- one of the three named boundaries: one request in the engine
            self._fail(sequence, ended, f"{type(error).__name__} in the decoder")
        return None

    def _fail(self, sequence: Sequence, ended: list[Sequence], why: str) -> None:
        sequence.error = GenerationError(f"generation failed: {why}", status=500)
        self.running.remove(sequence)
        ended.append(sequence)

    def _run(self, chosen: list[Sequence], chunks: list[Chunk], ended: list[Sequence], began: float) -> None:
        batch = pack(chunks, [s.pages for s in chosen], PAGE_SIZE, self.model.device)
        launched = time.perf_counter()
        hidden = self.model.forward(batch, self.cache)
        requests = [SampleRequest(chunks[i], chosen[i].state.params) for i in batch.order]
        results = self._sampler(hidden, requests)
        returned = time.perf_counter()
        for i, sampled in zip(batch.order, results, strict=True):
            self._hand_back(chosen[i], SampledChunk(chunks[i], sampled), ended)
        self.counters.record(chunks, step_s=time.perf_counter() - began, model_s=returned - launched)

    def _hand_back(self, sequence: Sequence, done: SampledChunk, ended: list[Sequence]) -> None:
        if any(not math.isfinite(confidence) for confidence in done.sampled.confidences):
            sequence.state.forwards[done.chunk.kind] += 1
            self._fail(sequence, ended, "the model's logits are not finite")
            # What it cached may be NaN, and a masked NaN still spreads: wipe it before anyone gets the pages.
            self.cache.clear(sequence.pages[sequence.num_shared_tokens // PAGE_SIZE :])
            return
        state = sequence.state
        was_prefilling = state.cached < len(state.prompt_ids)
        self._guarded(sequence, ended, done)
        if sequence.error is not None:
            return
        if was_prefilling and state.cached >= len(state.prompt_ids) and state.causal_prompt:
            self.allocator.share(sequence.pages, state.prompt_ids)
        if sequence.first_token is None and state.output:
            sequence.first_token = time.perf_counter()
        if state.finish_reason is not None:
            self.running.remove(sequence)
            ended.append(sequence)

    def _release(self, sequence: Sequence) -> None:
        sequence.ended = time.perf_counter()
        self.counters.finish(sequence.state, failed=sequence.error is not None)
        if sequence.pages:
            broken = sequence.error is not None and sequence.error.status == 500
            self.allocator.release(sequence.pages, forget=broken)
            sequence.pages = []
