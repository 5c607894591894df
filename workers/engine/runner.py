"""Runs one step on the device: pack the chunks, one ragged forward, sample."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from trimode.core.errors import WorkerError
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.engine.buckets import MAX_QUERIES, Bucket, Buckets, Kind
from trimode.workers.engine.capture import Capture
from trimode.workers.engine.graphs import CaptureReport, Graphs
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.model.batch import pack
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.sampling.sampler import Sampler, SampleRequest


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns True if the device had no memory for what raised this."""
    return isinstance(error, torch.OutOfMemoryError)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave."""

    samples: Sequence[tuple[ScheduledChunk, Sampled]]
    """Each chunk with its result, in the order in which the chunks stand in the batch."""
    model_s: float
    """Seconds in forward and sampling, until the samples are on the host. Packing is not included."""
    following: Sequence[Sampled] = ()
    """The results of the chunks that follow those of `samples`, one each, if the step ran two forwards; else empty."""


class Runner:
    """Owns the model, its KV cache and the sampler. All modes take the same way through it."""

    def __init__(
        self, model: TriModeModel, num_pages: int, *, capture: Capture | None = None, max_num_seqs: int = 1
    ) -> None:
        """Allocates the KV cache.

        Args:
            model: a loaded model, with its adapter if it gets one.
            num_pages: size of the cache.
            capture: records the graphs of steps; None = every kernel of a step is launched by the host.
            max_num_seqs: most chunks of a step that runs as a graph.
        """
        self.model = model
        self.cache = KVCache(model.config, num_pages, model.dtype, model.device)
        self.sampler = Sampler(model.head, model.config.mask_token_id)
        self.graphs: Graphs | None = None
        if capture is not None:
            buckets = Buckets(max_num_seqs, lora=model.adapter is not None)
            longest = min(model.config.max_position_embeddings + 2 * MAX_QUERIES, num_pages * PAGE_SIZE)
            self.graphs = Graphs(model, self.cache, buckets, capture, max_model_len=longest)

    def run(self, scheduled: Sequence[ScheduledChunk]) -> StepResult:
        """Runs all chunks together. Without chunks it runs nothing. WorkerError if the device is lost."""
        if not scheduled:
            return StepResult((), 0.0)
        try:
            with self._on_device():
                bucket = None if self.graphs is None else self.graphs.choose(scheduled)
                return self._run(scheduled) if bucket is None else self._run_graph(bucket, scheduled)
        except RuntimeError as error:
            if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
                raise WorkerError(f"the device {self.model.device} is lost: {error}") from None
            raise

    def _run(self, scheduled: Sequence[ScheduledChunk]) -> StepResult:
        tables = [item.sequence.pages for item in scheduled]
        batch = pack([item.chunk for item in scheduled], tables, PAGE_SIZE, self.model.device)
        began = time.perf_counter()
        hidden = self.model.forward(batch, self.cache)
        # A GPU is still at work here: the host prepares the sampling meanwhile.
        ordered = [scheduled[i] for i in batch.order]
        requests = [SampleRequest(item.chunk, item.sequence.state.params) for item in ordered]
        sampled = self.sampler(hidden, requests)
        model_s = time.perf_counter() - began
        return StepResult(list(zip(ordered, sampled, strict=True)), model_s)

    def _run_graph(self, bucket: Bucket, scheduled: Sequence[ScheduledChunk]) -> StepResult:
        assert self.graphs is not None
        launched = self.graphs.launch(bucket, scheduled)
        if bucket.kind is Kind.FORWARD:
            requests = [SampleRequest(item.chunk, item.sequence.state.params) for item in launched.ordered]
            results = [self.sampler(self.graphs.hidden(launched), requests)]
        else:
            results = self.graphs.finish(launched)
        model_s = time.perf_counter() - launched.began
        samples = list(zip(launched.ordered, results[0], strict=True))
        return StepResult(samples, model_s, results[1] if len(results) > 1 else ())

    def _on_device(self) -> AbstractContextManager[object]:
        """Makes the model's device the current one of this thread, where kernels are launched."""
        return torch.cuda.device(self.model.device) if self.model.device.type == "cuda" else nullcontext()

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
        with self._on_device():
            self._warm_up()
            return None if self.graphs is None else self.graphs.capture()

    def _warm_up(self) -> None:
        chunk = Chunk("decode", [0, 0], 0, causal=True, keep_kv=False, rows=range(2), purpose="warm-up")
        params = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)
        hidden = self.model.forward(pack([chunk], [[0]], PAGE_SIZE, self.model.device), self.cache)
        self.sampler(hidden, [SampleRequest(chunk, params)])
        self.cache.clear([0])
