"""The engine: many requests of all modes, one ragged forward per step, each request counted exactly.

A step schedules one chunk per running request, runs them together and hands the samples back. Requests join and leave
between steps. The engine uses decoding states through `DecodeState` only and has no code for a single mode.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque

from trimode.core.continuation import Continuation
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import DecodeParams
from trimode.workers.boundary import one_request
from trimode.workers.decode.chunk import Sampled
from trimode.workers.decode.context import DecodeContext, StopFinder
from trimode.workers.decode.registry import MODES
from trimode.workers.engine.ahead import StepsAhead
from trimode.workers.engine.buckets import BLOCK
from trimode.workers.engine.capture import Capture, is_out_of_memory
from trimode.workers.engine.counters import EngineCounters
from trimode.workers.engine.graphs import CaptureReport, align
from trimode.workers.engine.measuring import measure
from trimode.workers.engine.pages import PageAllocator
from trimode.workers.engine.planner import WidthPlanner
from trimode.workers.engine.runner import Runner, StepResult
from trimode.workers.engine.scheduler import MAX_STEP_PREFILL, PREFILL_SLICE, ScheduledChunk, Scheduler, Sequence
from trimode.workers.model.kv_cache import PAGE_SIZE
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.params import check_fits, check_vocabulary
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
        capture: Capture | None = None,
    ) -> None:
        """Allocates the KV cache. With `capture`, `warm_up` must follow before the first step.

        Args:
            model: a loaded model.
            num_pages: size of the KV cache in pages of PAGE_SIZE tokens.
            max_num_seqs: most requests that run at once.
            prefill_slice: most prompt tokens of one request per step.
            max_step_prefill: most prompt tokens of all requests per step.
            capture: records the graphs of steps; None = every kernel of a step is launched by the host.
        """
        self.model = model
        self.allocator = PageAllocator(num_pages, PAGE_SIZE)
        self.scheduler = Scheduler(self.allocator, max_num_seqs, max_step_prefill=max_step_prefill)
        self.runner = Runner(model, num_pages, capture=capture, max_num_seqs=max_num_seqs)
        self.counters = EngineCounters()
        self.planner = WidthPlanner()
        if self.runner.graphs is not None:
            self.planner.widths.kinds.whole_from = BLOCK
        self._prefill_slice = prefill_slice
        self._steps = StepsAhead(self.scheduler, self.runner, self.counters)

    @property
    def max_model_len(self) -> int:
        """Most prompt and output tokens of one request: the model's context or the size of the cache."""
        return min(self.model.config.max_position_embeddings, self.allocator.num_pages * PAGE_SIZE)

    @property
    def max_num_seqs(self) -> int:
        """Most requests that run at once."""
        return self.scheduler.max_num_seqs

    @property
    def _lower(self) -> str:
        """What an error without memory advises."""
        return f"lower kv_cache_gb, or max_num_seqs (got {self.max_num_seqs})"

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
        return bool(self.waiting or self.running or self._steps.pending)

    def check(self, num_prompt: int, params: DecodeParams) -> None:
        """Refuses a request that the model can never run. GenerationError (400) with the numbers."""
        config = self.model.config
        check_fits(num_prompt, params, config.max_position_embeddings, has_adapter=self.model.adapter is not None)
        check_vocabulary(params, config.vocab_size)

    def add(
        self,
        request_id: str,
        prompt_ids: list[int],
        params: DecodeParams,
        find_stop: StopFinder | None = None,
        continuation: Continuation | None = None,
    ) -> Sequence:
        """Queues a request, which goes on from `continuation` if there is one. It joins at one of the next steps.

        Raises:
            GenerationError: it can never run (context, cache size, adapter), or the continuation has an end.
        """
        self.check(len(prompt_ids), params)
        config = self.model.config
        ends = frozenset(config.eos_token_ids)
        context = DecodeContext(config.mask_token_id, ends, self._prefill_slice, find_stop, self.planner.new_chooser)
        seed = request_seed(params.seed, prompt_ids) if params.temperature > 0 else params.seed
        state = MODES[params.mode](prompt_ids, dataclasses.replace(params, seed=seed), context)
        if continuation is not None:
            state.continue_from(continuation)
            self.counters.continued_requests += 1
        needed, total = self.allocator.pages_for(state.max_kv_tokens), self.allocator.num_pages
        if needed > total:
            raise GenerationError(
                f"KV cache: the request needs {needed} pages of {PAGE_SIZE} tokens ({len(prompt_ids)} prompt + "
                f"{params.max_new_tokens} new + scratch), the cache has {total}"
            )
        sequence = Sequence(request_id, state, params=params)
        self.scheduler.add(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request at the next step, with GenerationError (499)."""
        self.scheduler.cancel(sequence)

    def warm_up(self) -> CaptureReport | None:
        """Compiles the kernels before the first request and captures the graphs. Returns None without graphs.

        Raises:
            WorkerError: the device has no room for a graph.
        """
        return self.runner.warm_up()

    def measure(self) -> None:
        """Measures what steps cost by their rows, for modes that choose widths. Must come before the first request."""
        self.planner.widths.times = measure(self)
        self.counters.reset()

    def step(self) -> list[Sequence]:
        """Runs one forward, or two where a graph holds both. Returns the requests that ended, with or without an error.

        If the forward raises, the requests whose part of it raises alone end, and the others go on as if nothing had
        been.

        Raises:
            WorkerError: the device is lost, or it has no memory for the part of any request.
        """
        began = time.perf_counter()
        results = self._run_next()
        samples = [sample for result in results for sample in result.samples]
        ended = self._take_back(samples)
        following: list[tuple[ScheduledChunk, Sampled]] = []
        for result in results:
            if result.following:
                following += self._following(result)
        ended += self._take_back(following)
        step_s, model_s = time.perf_counter() - began, sum(result.model_s for result in results)
        self.counters.record([item.chunk for item, _ in samples], step_s=step_s, model_s=model_s)
        self.counters.record([item.chunk for item, _ in following], step_s=0.0, model_s=0.0)
        self.planner.after_step([i for i, _ in samples], step_s=step_s, num_forwards=1 + bool(following))
        return ended

    def _run_next(self) -> list[StepResult]:
        """Runs the next step, or waits for it if it was launched before."""
        self.planner.before_step(self.running)
        if self._steps.pending:
            self.scheduler.drop_cancelled()
            return self._run_asynchronously([])
        scheduled = self.scheduler.schedule()
        if self.runner.graphs is not None:
            scheduled = align(scheduled)
        return self._run_asynchronously(scheduled) if scheduled and self.runner.asynchronous else self._run(scheduled)

    def _run_asynchronously(self, scheduled: list[ScheduledChunk]) -> list[StepResult]:
        try:
            with one_request("the forward"):
                return [self._steps.step(scheduled)]
        except GenerationError:
            self._steps.forget()
            return self._run(scheduled or self.scheduler.gather())

    def _following(self, result: StepResult) -> list[tuple[ScheduledChunk, Sampled]]:
        """Returns the second results of a step with the chunks that ran, for the requests that took in the first."""
        running = set(self.running)
        samples = []
        for (item, _), sampled in zip(result.samples, result.following, strict=True):
            if item.sequence in running and (chunk := self.scheduler.next_chunk(item.sequence)) is not None:
                samples.append((ScheduledChunk(item.sequence, chunk), sampled))
        return samples

    def _run(self, scheduled: list[ScheduledChunk]) -> list[StepResult]:
        """Runs the chunks. A request whose chunk raises alone ends, unless there is no memory for anything."""
        failed: list[tuple[ScheduledChunk, GenerationError, bool]] = []
        results = self._run_parts(scheduled, failed)
        if failed and not results and all(full for _, _, full in failed):
            item = failed[0][0]
            raise WorkerError(
                f"{self.model.device} is out of memory: a step of {len(scheduled)} requests does not run, nor does a "
                f"part of it with 1 request and {len(item.chunk.token_ids)} tokens; {self._lower}"
            )
        for item, error, _ in failed:
            self.scheduler.end(item.sequence, error)
        return results

    def _run_parts(
        self, scheduled: list[ScheduledChunk], failed: list[tuple[ScheduledChunk, GenerationError, bool]]
    ) -> list[StepResult]:
        """Runs the chunks together; if that raises, in halves.

        A chunk may run again, because it writes its KV to the same places and no state has seen a result yet.

        Args:
            scheduled: what is to run.
            failed: gets the chunks that raise alone, with the error and True if the device had no memory.
        """
        if not scheduled:
            return []
        try:
            with one_request("the forward"):
                return [self.runner.run(scheduled)]
        except GenerationError as error:
            full = is_out_of_memory(error.__cause__)
            self.runner.recover()
            if len(scheduled) == 1:
                advice = (
                    f": no memory for its {len(scheduled[0].chunk.token_ids)} tokens; {self._lower}" if full else ""
                )
                # a new error: the frames of the cause would hold tensors
                failed.append((scheduled[0], GenerationError(error.message + advice, error.status), full))
                return []
        half = len(scheduled) // 2
        return self._run_parts(scheduled[:half], failed) + self._run_parts(scheduled[half:], failed)

    def _take_back(self, samples: list[tuple[ScheduledChunk, Sampled]]) -> list[Sequence]:
        """Hands the samples to their requests. Returns the requests that ended, after their pages are released."""
        # probabilities, so their sum is finite if all of them are
        broken = [item for item, sampled in samples if not math.isfinite(sum(sampled.confidences))]
        # First of all, so that no request offers what it read from a broken one.
        stopped = self._stop_not_finite(broken) if broken else set()
        for item, sampled in samples:
            if item.sequence not in stopped:
                self.scheduler.advance(item.sequence, item.chunk, sampled)
        ended = self.scheduler.release_ended()
        if unclean := self.scheduler.take_unclean():
            self.runner.cache.clear(unclean)
        for sequence in ended:
            if sequence.cancelled:
                self.counters.requests_cancelled += 1
                continue
            try:
                with one_request("the decoder"):
                    self.counters.finish(sequence.state, failed=sequence.error is not None)
            except GenerationError as error:
                sequence.error = error
                self.counters.finish(sequence.state, failed=True)
        return ended

    def _stop_not_finite(self, items: list[ScheduledChunk]) -> set[Sequence]:
        """Ends the requests whose logits are not finite, except those that read it from another's pages.

        Whoever reads KV that is not finite and that another request had computed starts again from its prompt.

        Returns:
            The requests that failed or start again: their samples of this step count for nothing.
        """
        for item in items:
            item.sequence.state.forwards[item.chunk.kind] += 1
            self.allocator.withdraw(item.sequence.pages)
        pages = self.runner.not_finite({page for item in items for page in item.sequence.pages})
        readers = {s for s in self.running if pages.intersection(self.scheduler.shared_pages(s))}
        for sequence in [s for s in self.running if s in readers][::-1]:
            self.scheduler.start_again(sequence)
        failed = [item.sequence for item in items if item.sequence not in readers]
        for sequence in failed:
            error = GenerationError("generation failed: the model's logits are not finite", status=500)
            self.scheduler.end(sequence, error)
        return readers.union(failed)
