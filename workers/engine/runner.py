"""Runs one step on the device: pack the chunks, one ragged forward, sample."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from trimode.core.errors import WorkerError
from trimode.core.protocol import DecodeParams
from trimode.kernels.packing import upload
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.engine.buckets import MAX_QUERIES, Bucket, Buckets, Kind
from trimode.workers.engine.capture import Capture, is_out_of_memory
from trimode.workers.engine.graphs import CaptureReport, GraphRun, Graphs
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.step_threads import StepThreads
from trimode.workers.model.batch import Batch, batch_order, pack
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.sampling.plan import SampleRequest, SamplingPlan, plan_sampling
from trimode.workers.sampling.sampler import Sampler, Sampling


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device the current one of this thread, where kernels are launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave."""

    samples: Sequence[tuple[ScheduledChunk, Sampled]]
    """Each chunk with its result, in the order in which the chunks stand in the batch."""
    model_s: float
    """Seconds in forward and sampling, until the samples are on the host. Packing is not included, nor what the
    host did while it did not wait."""
    following: Sequence[Sampled] = ()
    """The results of the chunks that follow those of `samples`, one each, if the step ran two forwards; else empty."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A step that the device has been given and whose samples nobody has read yet."""

    scheduled: Sequence[ScheduledChunk]
    """In the order in which the chunks stand in the batch."""
    run: Sampling | GraphRun
    launch_s: float
    """Seconds that the host took to launch forward and sampling."""

    @property
    def may_be_followed(self) -> bool:
        """True if the next step can be launched before this one is collected."""
        return isinstance(self.run, Sampling) or self.run.bucket.kind is Kind.GREEDY

    @property
    def tokens(self) -> torch.Tensor | None:
        """The tokens that the step samples, int64 on the device, as `sources` counts them. None if there are none."""
        return self.run.tokens_R if isinstance(self.run, Sampling) else self.run.tokens_T

    def sources(self, items: Sequence[ScheduledChunk]) -> list[int]:
        """Returns, for each chunk of the next step, where in `tokens` those of its request begin.

        Empty if no chunk has a token that this step samples.
        """
        if not any(min(item.chunk.token_ids) < 0 for item in items):
            return []
        starts, start = {}, 0
        for item in self.scheduled:
            chunk = item.chunk
            if isinstance(self.run, Sampling):
                starts[item.sequence] = start
                start += len(chunk.rows)
            else:  # of all tokens; the wanted rows of a chunk that is followed stand side by side
                starts[item.sequence] = start + (chunk.rows[0] if chunk.rows else 0)
                start += len(chunk.token_ids)
        return [starts[item.sequence] for item in items]


class Runner:
    """Owns the model, its KV cache and the sampler. All modes take the same way through it."""

    def __init__(
        self,
        model: TriModeModel,
        num_pages: int,
        *,
        capture: Capture | None = None,
        max_num_seqs: int = 1,
        max_kv_tokens: int | None = None,
    ) -> None:
        """Allocates the KV cache.

        Args:
            model: a loaded model, with its adapter if it gets one.
            num_pages: size of the cache.
            capture: records the graphs of steps; None = every kernel of a step is launched by the host.
            max_num_seqs: most chunks of a step that runs as a graph.
            max_kv_tokens: most tokens of a request in a graph, scratch included; None = what model and cache allow.
        """
        self.model = model
        self.cache = KVCache(model.config, num_pages, model.dtype, model.device)
        self.sampler = Sampler(model.head, model.config.mask_token_id)
        self.threads: StepThreads | None = None
        """Chooses the CPU threads of each step; None = they stay as they are."""
        self.graphs: Graphs | None = None
        if capture is not None:
            buckets = Buckets(max_num_seqs, lora=model.adapter is not None)
            longest = min(model.config.max_position_embeddings + 2 * MAX_QUERIES, num_pages * PAGE_SIZE)
            self.graphs = Graphs(model, self.cache, buckets, capture, max_kv_tokens=max_kv_tokens or longest)

    def run(self, scheduled: Sequence[ScheduledChunk]) -> StepResult:
        """Runs all chunks together. Without chunks it runs nothing. WorkerError if the device is lost."""
        return self.collect(self.launch(scheduled)) if scheduled else StepResult((), 0.0)

    @property
    def asynchronous(self) -> bool:
        """True if the host can go on while the device computes."""
        return self.model.device.type == "cuda"

    def launch(self, scheduled: Sequence[ScheduledChunk], after: InFlight | None = None) -> InFlight:
        """Gives the device all work of a step, at least one chunk, and does not wait for it.

        Args:
            scheduled: what runs.
            after: the step before, if it has not been collected yet: the chunks may have tokens that it samples.

        Raises:
            WorkerError: the device is lost.
        """
        with self._device_errors():
            if self.threads is not None:
                torch.set_num_threads(self.threads.of_step(sum(len(item.chunk.token_ids) for item in scheduled)))
            order = batch_order([item.chunk for item in scheduled], PAGE_SIZE)
            ordered = [scheduled[i] for i in order]
            bucket = self._bucket(ordered, after)
            return self._launch(ordered, after) if bucket is None else self._launch_graph(bucket, ordered, after)

    def _bucket(self, ordered: Sequence[ScheduledChunk], after: InFlight | None) -> Bucket | None:
        """Returns the graph that runs the chunks; None if they run without one."""
        if self.graphs is None:
            return None
        known = after is None or after.tokens is None or self.graphs.can_take(after.tokens)
        return self.graphs.choose(ordered) if known else None

    def _launch(self, ordered: Sequence[ScheduledChunk], after: InFlight | None) -> InFlight:
        plan = plan_sampling([SampleRequest(item.chunk, item.sequence.state.params) for item in ordered])
        chunks, tables = [item.chunk for item in ordered], [item.sequence.pages for item in ordered]
        sources = [] if after is None else after.sources(ordered)
        batch = pack(chunks, tables, PAGE_SIZE, self.model.device, sources=sources, more=plan.arrays)
        began = time.perf_counter()
        return InFlight(ordered, self._compute(plan, batch, after), time.perf_counter() - began)

    def _compute(self, plan: SamplingPlan, batch: Batch, after: InFlight | None) -> Sampling:
        """Launches a step without a graph. Tokens that are not known yet come from the step before."""
        if batch.source_T is not None:
            assert after is not None
            assert after.tokens is not None
            batch = batch.filled(after.tokens)
        hidden = self.model.forward(batch, self.cache)
        inputs = batch.wanted_tokens() if plan.reads_inputs else None
        return self.sampler.launch(hidden, plan, batch.more, inputs)

    def _launch_graph(self, bucket: Bucket, ordered: Sequence[ScheduledChunk], after: InFlight | None) -> InFlight:
        graphs = self.graphs
        assert graphs is not None
        began = time.perf_counter()
        sources = [] if after is None else after.sources(ordered)
        if sources:
            assert after is not None
            assert after.tokens is not None
            graphs.take(after.tokens)
        if bucket.kind is not Kind.FORWARD:
            run: Sampling | GraphRun = graphs.launch(bucket, ordered, sources)
        else:
            plan = plan_sampling([SampleRequest(item.chunk, item.sequence.state.params) for item in ordered])
            hidden, inputs = graphs.forward(bucket, ordered, sources)
            run = self.sampler.launch(hidden, plan, upload(plan.arrays, self.model.device), inputs)
        return InFlight(ordered, run, time.perf_counter() - began)

    def collect(self, in_flight: InFlight) -> StepResult:
        """Waits for a step. Returns what it gave.

        Raises:
            WorkerError: the device is lost.
        """
        with self._device_errors():
            began = time.perf_counter()
            run = in_flight.run
            found = run.collect() if isinstance(run, GraphRun) else [run.collect()]
            model_s = in_flight.launch_s + time.perf_counter() - began
            samples = list(zip(in_flight.scheduled, found[0], strict=True))
            return StepResult(samples, model_s, found[1] if len(found) > 1 else ())

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Turns the loss of the device into a WorkerError. Inside, the model's device is the thread's current one."""
        try:
            with on_device(self.model.device):
                yield
        except RuntimeError as error:
            lost = isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
            if lost and not is_out_of_memory(error):
                raise WorkerError(f"the device {self.model.device} is lost: {error}") from None
            raise

    def recover(self) -> None:
        """Makes room for the next attempt after a step that raised. WorkerError if the device does not compute."""
        try:
            self.probe()
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
        except RuntimeError as error:
            raise WorkerError(f"the device {self.model.device} is lost: {error}") from None

    def probe(self) -> None:
        """Runs the smallest task on the device and waits for it."""
        torch.ones(1, device=self.model.device).add(1).tolist()

    def not_finite(self, pages: Iterable[int]) -> set[int]:
        """Returns those of the pages whose K or V is not finite. The host waits for the device."""
        numbers = sorted(pages)
        finite = torch.ones(len(numbers), dtype=torch.bool, device=self.model.device)
        index = torch.tensor(numbers, device=self.model.device)
        for number in range(self.model.config.num_layers):
            finite &= self.cache.layer(number)[index].isfinite().flatten(1).all(dim=1)
        return {page for page, good in zip(numbers, finite.tolist(), strict=True) if not good}

    def warm_up(self) -> CaptureReport | None:
        """Runs one dummy forward so that kernels are compiled before the first request, then captures the graphs.

        The cache must be unused.

        Returns:
            What capturing took; None without graphs.
        """
        with self._device_errors():
            self._warm_up()
            return None if self.graphs is None else self.graphs.capture()

    def _warm_up(self) -> None:
        chunk = Chunk("decode", [0, 0], 0, causal=True, keep_kv=False, rows=range(2), purpose="warm-up")
        params = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)
        hidden = self.model.forward(pack([chunk], [[0]], PAGE_SIZE, self.model.device), self.cache)
        self.sampler(hidden, [SampleRequest(chunk, params)])
        self.cache.clear([0])
