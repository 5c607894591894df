"""The engine: many requests of all modes, one ragged forward per step, each request counted exactly.

A step schedules one chunk per running request, runs them together and hands the samples back. Requests join and leave
between steps. The engine uses decoding states through `DecodeState` only and has no code for a single mode.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque

from trimode.core.errors import GenerationError
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.registry import MODES
from trimode.workers.decode.state import DecodeContext, StopFinder
from trimode.workers.engine.counters import EngineCounters
from trimode.workers.engine.pages import PageAllocator
from trimode.workers.engine.runner import Runner, StepResult
from trimode.workers.engine.scheduler import MAX_STEP_PREFILL, PREFILL_SLICE, ScheduledChunk, Scheduler, Sequence
from trimode.workers.model.kv_cache import PAGE_SIZE
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.params import check_fits
from trimode.workers.sampling.randomness import request_seed


class Engine:
    """Runs requests on one model. Not thread-safe: one thread adds, steps and cancels."""

    def __init__(
        self,
        model: TriModeModel,
        num_pages: int,
        max_num_seqs: int,
        *,
        prefill_slice: int = PREFILL_SLICE,
        max_step_prefill: int = MAX_STEP_PREFILL,
    ) -> None:
        """Allocates the KV cache.

        Args:
            model: a loaded model.
            num_pages: size of the KV cache in pages of PAGE_SIZE tokens.
            max_num_seqs: most requests that run at once.
            prefill_slice: most prompt tokens of one request per step.
            max_step_prefill: most prompt tokens of all requests per step.
        """
        self.model = model
        self.allocator = PageAllocator(num_pages, PAGE_SIZE)
        self.scheduler = Scheduler(self.allocator, max_num_seqs, max_step_prefill=max_step_prefill)
        self.runner = Runner(model, num_pages)
        self.counters = EngineCounters()
        self._prefill_slice = prefill_slice

    @property
    def max_model_len(self) -> int:
        """Most prompt and output tokens of one request: the model's context or the size of the cache."""
        return min(self.model.config.max_position_embeddings, self.allocator.num_pages * PAGE_SIZE)

    @property
    def max_num_seqs(self) -> int:
        """Most requests that run at once."""
        return self.scheduler.max_num_seqs

    @property
    def running(self) -> list[Sequence]:
        """Requests that hold pages, in order of admission."""
        return self.scheduler.running

    @property
    def waiting(self) -> deque[Sequence]:
        """Requests that wait for a slot or for pages, oldest first."""
        return self.scheduler.waiting

    @property
    def busy(self) -> bool:
        """True if a step has work."""
        return bool(self.waiting or self.running)

    def check(self, num_prompt: int, params: DecodeParams) -> None:
        """Refuses a request that the model can never run. GenerationError (400) with the numbers."""
        config = self.model.config
        check_fits(num_prompt, params, config.max_position_embeddings, has_adapter=self.model.adapter is not None)
        end_think = params.end_think_token_id
        if end_think is not None and end_think >= config.vocab_size:
            raise GenerationError(f"end_think_token_id: got {end_think}; valid: below {config.vocab_size}")

    def add(
        self, request_id: str, prompt_ids: list[int], params: DecodeParams, find_stop: StopFinder | None = None
    ) -> Sequence:
        """Queues a request. It joins at one of the next steps.

        Raises:
            GenerationError: it can never run (context, cache size, adapter).
        """
        self.check(len(prompt_ids), params)
        config = self.model.config
        ends = frozenset((*config.eos_token_ids, *params.stop_token_ids))
        context = DecodeContext(config.mask_token_id, ends, self._prefill_slice, find_stop)
        if params.temperature > 0:
            params = dataclasses.replace(params, seed=request_seed(params.seed, prompt_ids))
        state = MODES[params.mode](prompt_ids, params, context)
        needed, total = self.allocator.pages_for(state.max_kv_tokens), self.allocator.num_pages
        if needed > total:
            raise GenerationError(
                f"KV cache: the request needs {needed} pages of {PAGE_SIZE} tokens ({len(prompt_ids)} prompt + "
                f"{params.max_new_tokens} new + scratch), the cache has {total}"
            )
        sequence = Sequence(request_id, state)
        self.scheduler.add(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request at the next step, with GenerationError (499)."""
        self.scheduler.cancel(sequence)

    def warm_up(self) -> None:
        """Runs one dummy forward so that kernels are compiled before the first request."""
        self.runner.warm_up()

    def step(self) -> list[Sequence]:
        """Runs one forward. Returns the requests that ended in this step, with or without an error."""
        began = time.perf_counter()
        scheduled = self.scheduler.schedule()
        result = self.runner.run(scheduled)
        ended = self._take_back(result)
        step_s = time.perf_counter() - began
        self.counters.record([item.chunk for item in scheduled], step_s=step_s, model_s=result.model_s)
        return ended

    def _take_back(self, result: StepResult) -> list[Sequence]:
        """Hands the samples to their requests. Returns the requests that ended, after their pages are released."""
        for item, sampled in result.samples:
            if all(map(math.isfinite, sampled.confidences)):
                self.scheduler.advance(item.sequence, item.chunk, sampled)
            else:
                self._end_not_finite(item)
        ended = self.scheduler.release_ended()
        for sequence in ended:
            self.counters.finish(sequence.state, failed=sequence.error is not None)
        return ended

    def _end_not_finite(self, item: ScheduledChunk) -> None:
        sequence = item.sequence
        sequence.state.forwards[item.chunk.kind] += 1
        self.scheduler.end(
            sequence, GenerationError("generation failed: the model's logits are not finite", status=500)
        )
        # Its KV may be NaN, and a masked NaN still spreads: overwrite its own pages before another request gets them.
        self.runner.cache.clear(sequence.pages[sequence.num_shared_tokens // PAGE_SIZE :])
