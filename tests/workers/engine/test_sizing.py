"""The size of the KV cache: what is measured first, what stays free, and what the errors advise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from trimode.core.errors import ConfigError, WorkerError
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.engine.buckets import Buckets
from trimode.workers.engine.capture import Capture
from trimode.workers.engine.sizing import (
    MARGIN_BYTES,
    MARGIN_SHARE,
    DeviceMemory,
    Reserve,
    cache_pages,
    measure,
    pages_beside,
)
from trimode.workers.model import kv_cache
from trimode.workers.runtime import Runtime

GIB = 2**30
STEP, GRAPH, MORE = 300 << 20, 200 << 20, 1 << 20
"""Bytes of a step, of the first graph, and of every further one."""


class FakeMemory(DeviceMemory):
    """A device of `total` bytes with `free` bytes beside the model."""

    def __init__(self, total: int, free: int) -> None:
        self.total = total
        self.free = free
        self.steps = 0

    def total_bytes(self) -> int:
        return self.total

    def free_bytes(self) -> int:
        return self.free

    def peak_bytes(self, run: Callable[[], object]) -> int:
        run()
        self.steps += 1
        return STEP


class FakeCapture(Capture):
    """Records nothing. The first recording takes much memory, the others take little."""

    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory
        self.count = 0

    def record(self, body: Callable[[], None], outside: Sequence[object]) -> Callable[[], None]:  # noqa: ARG002
        self.memory.free -= MORE if self.count else GRAPH
        self.count += 1
        return body


def test_step_graphs_and_margin_are_measured_before_the_cache(micro: Runtime) -> None:
    memory = FakeMemory(80 * GIB, 60 * GIB)
    reserve = measure(micro.engine.model, 4, memory, lambda: FakeCapture(memory))
    graphs = len(Buckets(4, lora=True).all)
    assert memory.steps == 1
    assert reserve == Reserve(step=STEP, graphs=GRAPH + (graphs - 1) * MORE, margin=int(80 * GIB * MARGIN_SHARE))


def test_without_graphs_nothing_is_kept_for_them(micro: Runtime) -> None:
    reserve = measure(micro.engine.model, 4, FakeMemory(8 * GIB, 6 * GIB), None)
    assert reserve == Reserve(step=STEP, graphs=0, margin=MARGIN_BYTES)


def test_the_cache_gets_the_rest(micro: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    model = micro.engine.model
    free, page_bytes = 2 * GIB, model.config.kv_bytes_per_token * 4 * 16
    pages = pages_beside(model, 4, FakeMemory(8 * GIB, free), None)
    assert 0 <= free - STEP - MARGIN_BYTES - (pages + 1) * page_bytes < page_bytes
    kept = "0.29 GiB for a step, 0.00 GiB for graphs, a margin of 0.50 GiB stay free"
    assert capsys.readouterr().err == f"KV cache: room for {pages} pages of 16 tokens; {kept}\n"


def test_too_little_memory_is_an_error_that_says_what_to_lower(micro: Runtime) -> None:
    with pytest.raises(WorkerError, match=r"cpu is out of memory: 0\.10 GiB are free.*lower max_num_seqs \(got 4\)"):
        pages_beside(micro.engine.model, 4, FakeMemory(8 * GIB, GIB // 10), None)


def test_a_largest_step_without_room_is_named(micro: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("Tried to allocate 3.00 GiB")

    monkeypatch.setattr(micro.engine.model, "forward", forward)
    named = (
        r"no room for a step of 2144 tokens and 7 requests; lower max_num_seqs \(got 7\): Tried to allocate 3\.00 GiB"
    )
    with pytest.raises(WorkerError, match=named):
        measure(micro.engine.model, 7, FakeMemory(8 * GIB, 6 * GIB), None)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("Tried to allocate 3.00 GiB"), OSError(12, "no memory")])
def test_a_cache_without_room_is_named(micro: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def zeros(*_: object, **__: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(kv_cache, "_zeros", zeros)
    named = r"cpu is out of memory: no room for a KV cache of 2047 pages of 16 tokens, 0\.1 GiB; lower kv_cache_gb"
    with pytest.raises(WorkerError, match=named):
        Runtime(micro_settings(kv_cache_gb=0.0625))
    assert micro.engine.model is not None


def test_a_cache_that_is_given_is_not_measured(micro: Runtime) -> None:
    pages = cache_pages(micro_settings(kv_cache_gb=0.01), micro.engine.model, None)
    page_bytes = micro.engine.model.config.kv_bytes_per_token * 4 * 16
    assert pages == int(0.01 * GIB) // page_bytes - 1
    with pytest.raises(ConfigError, match="kv_cache_gb: got 1e-06, which is 0 pages; valid: at least 4 pages"):
        cache_pages(micro_settings(kv_cache_gb=1e-6), micro.engine.model, None)


def test_on_a_cpu_it_is_at_most_what_the_requests_can_use(micro: Runtime) -> None:
    pages = cache_pages(micro_settings(kv_cache_gb=None, max_num_seqs=2), micro.engine.model, None)
    assert pages == 2 * (4096 + 32) // 16
