"""Sizes the KV cache from the memory that is free once the model is loaded.

On a GPU nothing is left to chance: the memory of the largest step and of the graphs is measured with a small cache
first, a margin stays free, and the cache gets the rest.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from trimode.core.errors import ConfigError, WorkerError
from trimode.core.protocol import DecodeParams, WorkerSettings
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine.buckets import CYCLE_BLOCK, MAX_QUERIES
from trimode.workers.engine.capture import Capture
from trimode.workers.engine.runner import Runner, on_device
from trimode.workers.engine.scheduler import MAX_STEP_PREFILL, PREFILL_SLICE
from trimode.workers.model.batch import pack
from trimode.workers.model.kv_cache import PAGE_SIZE, default_num_pages, pages_for
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.sampling.plan import SampleRequest

CPU_SHARE = 0.25
"""Share of the free memory that the cache takes on a CPU."""
MARGIN_SHARE, MARGIN_BYTES = 0.03, 512 << 20
"""What stays free on a GPU for fragmentation and other users of the device: this share of all its memory, at least
this many bytes."""
MIN_PAGES = 4
_SPREAD = 4
"""Small graphs from which the memory of the others is estimated."""


class DeviceMemory(Protocol):
    """The memory of the model's device."""

    def total_bytes(self) -> int:
        """Returns all of it."""

    def free_bytes(self) -> int:
        """Returns what is free, after what torch holds without need is given back."""

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Calls `run` and returns the most that was allocated meanwhile beyond what was allocated before."""


class CudaMemory(DeviceMemory):
    """The memory of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def total_bytes(self) -> int:
        """Returns all of it."""
        return torch.cuda.mem_get_info(self._device)[1]

    def free_bytes(self) -> int:
        """Returns what is free, after what torch holds without need is given back."""
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Calls `run` and returns the most that was allocated meanwhile beyond what was allocated before."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Bytes that the cache must leave free."""

    step: int
    """What the largest step without a graph allocates."""
    graphs: int
    """What all graphs keep."""
    margin: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.step + self.graphs + self.margin

    def __str__(self) -> str:
        """Returns the parts in GiB."""
        step, graphs, margin = (value / 2**30 for value in (self.step, self.graphs, self.margin))
        return f"{step:.2f} GiB for a step, {graphs:.2f} GiB for graphs, a margin of {margin:.2f} GiB"


def cache_pages(settings: WorkerSettings, model: TriModeModel, new_capture: Callable[[], Capture] | None) -> int:
    """Returns the number of pages of the KV cache.

    Args:
        settings: `kv_cache_gb` decides; if it is None, the free memory and what the requests can use at most.
        model: a loaded model, with its adapter if it gets one.
        new_capture: where graphs come from; None = there are no graphs.

    Raises:
        ConfigError: `kv_cache_gb` is too small.
        WorkerError: the device has no room for a step, a graph, or a cache of MIN_PAGES pages.
    """
    if settings.kv_cache_gb is not None:
        pages = default_num_pages(model.config, model.dtype, int(settings.kv_cache_gb * 2**30))
        if pages < MIN_PAGES:
            raise ConfigError(
                f"kv_cache_gb: got {settings.kv_cache_gb}, which is {pages} pages; valid: at least {MIN_PAGES} pages"
            )
        return pages
    useful = pages_for(model.config.max_position_embeddings + 2 * PAGE_SIZE) * settings.max_num_seqs
    if model.device.type != "cuda":
        available = int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * CPU_SHARE)
        pages = min(default_num_pages(model.config, model.dtype, available), useful)
        if pages < MIN_PAGES:
            raise ConfigError(f"kv_cache_gb: got None, which is {pages} pages; valid: at least {MIN_PAGES} pages")
        return pages
    with on_device(model.device):
        return min(pages_beside(model, settings.max_num_seqs, CudaMemory(model.device), new_capture), useful)


def pages_beside(
    model: TriModeModel, max_num_seqs: int, memory: DeviceMemory, new_capture: Callable[[], Capture] | None
) -> int:
    """Returns the pages that fit the device beside the model, its largest step, its graphs and the margin.

    The log gets what is kept free.

    Raises:
        WorkerError: the device has no room for these.
    """
    reserve = measure(model, max_num_seqs, memory, new_capture)
    free = memory.free_bytes()
    pages = default_num_pages(model.config, model.dtype, max(0, free - reserve.total))
    if pages < MIN_PAGES:
        raise WorkerError(
            f"{model.device} is out of memory: {free / 2**30:.2f} GiB are free beside the model, of which {reserve} "
            f"stay free, so the KV cache would have {pages} pages; lower max_num_seqs (got {max_num_seqs})"
        )
    print(f"KV cache: room for {pages} pages of {PAGE_SIZE} tokens; {reserve} stay free", file=sys.stderr, flush=True)
    return pages


def measure(
    model: TriModeModel, max_num_seqs: int, memory: DeviceMemory, new_capture: Callable[[], Capture] | None
) -> Reserve:
    """Returns what the cache must leave free, measured with a cache of a few pages.

    Raises:
        WorkerError: the device has no room for a step or a graph.
    """
    before = memory.free_bytes()
    longest = model.config.max_position_embeddings + 2 * MAX_QUERIES
    capture = None if new_capture is None else new_capture()
    pages = pages_for(PREFILL_SLICE)
    runner = Runner(model, pages, capture=capture, max_num_seqs=max_num_seqs, max_kv_tokens=longest)
    step = memory.peak_bytes(lambda: _largest_step(runner, max_num_seqs))
    graphs = 0
    if runner.graphs is not None:
        buckets = runner.graphs.buckets
        largest = list({(bucket.kind, bucket.lora): bucket for bucket in reversed(buckets)}.values())
        few = [bucket for bucket in buckets if bucket not in largest][-_SPREAD:]
        runner.graphs.capture(largest)
        with_largest = memory.free_bytes()
        graphs = before - with_largest
        if few:
            runner.graphs.capture(few)
            each = max(0, with_largest - memory.free_bytes()) / len(few)
            graphs += math.ceil(each * (len(buckets) - len(largest)))
    margin = max(MARGIN_BYTES, int(memory.total_bytes() * MARGIN_SHARE))
    return Reserve(step=step, graphs=max(0, graphs), margin=margin)


def _largest_step(runner: Runner, max_num_seqs: int) -> None:
    """Runs the most prompt tokens that a step takes together with a block of every other request, all of it sampled."""
    length = min(PREFILL_SLICE, runner.model.config.max_position_embeddings)
    prompts = min(MAX_STEP_PREFILL // length, max_num_seqs)
    block = min(CYCLE_BLOCK, length)
    chunks = [
        Chunk("prefill", [0] * length, 0, causal=True, keep_kv=True, rows=(length - 1,), purpose="size")
        for _ in range(prompts)
    ]
    chunks += [
        Chunk("verify", [0] * block, 0, causal=True, keep_kv=True, rows=range(block), purpose="size")
        for _ in range(max_num_seqs - prompts)
    ]
    params = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None, temperature=1.0, top_p=0.9)
    tables = [list(range(pages_for(length)))] * len(chunks)
    try:
        batch = pack(chunks, tables, PAGE_SIZE, runner.model.device)
        hidden = runner.model.forward(batch, runner.cache)
        runner.sampler(hidden, [SampleRequest(chunks[i], params) for i in batch.order])
    except torch.OutOfMemoryError as error:
        raise WorkerError(
            f"{runner.model.device} is out of memory: no room for a step of {sum(len(c.token_ids) for c in chunks)} "
            f"tokens and {len(chunks)} requests; lower max_num_seqs (got {max_num_seqs}): {error}"
        ) from None
