"""Records what a function runs on the device, to run it again without the host's work: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from trimode.workers.model.transformer import TriModeModel

CUT_AFTER = (0, 8)
"""Layers of a recording's first forward after which it is cut into graphs of their own.

A GPU begins a graph only after it has taken in all of its kernels, on an H100 about 1.6 us for each, while a layer of
the 8B model runs for 170 us with 11 kernels. So the first graph is short, and each of the others is taken in while the
one before it runs. The third, of 25 layers, or of 59 in a cycle of draft and verify, takes less than 1.1 ms; the second
runs for 1.4 ms.
"""


class Capture(Protocol):
    """Where recordings come from."""

    def record(self, body: Callable[[], None], outside: Sequence[object]) -> Callable[[], None]:
        """Runs `body` and returns a function that does on the device what it did, with what then stands in memory.

        The recordings of one object share memory. So they must not run at the same time, and what a run leaves outside
        of the objects in `outside` is gone when another one runs.

        Args:
            body: reads and writes tensors. It must not wait for the device, and its numbers on the host must be the
                same in each run.
            outside: what it uses and does not allocate itself: objects that hold tensors. They live as long as the
                recording.
        """

    def after_layer(self, number: int) -> None:
        """Is called by `body` after each layer of its first forward, at which a recording may be cut."""


class CudaCapture(Capture):
    """CUDA graphs with one memory pool, captured on one stream and replayed on the current one."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []
        """Of the recording that is being made, the one that is being captured last; empty otherwise."""

    def record(self, body: Callable[[], None], outside: Sequence[object]) -> Callable[[], None]:
        """Runs `body` once, so that every kernel is compiled and loaded, then captures it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            body()
        current.wait_stream(self._stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with torch.cuda.stream(self._stream):
            self._begin()
            try:
                body()
            finally:
                graphs, self._graphs = self._graphs, []
                graphs[-1].capture_end()
        return _Replay(graphs, outside)

    def after_layer(self, number: int) -> None:
        """Cuts the recording after the layers CUT_AFTER."""
        if self._graphs and number in CUT_AFTER:
            self._graphs[-1].capture_end()
            self._begin()

    def _begin(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that read weights for their hash, may use the device meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        self._graphs.append(graph)


class _Replay:
    """The captured graphs of one recording, and what must live as long as they do."""

    def __init__(self, graphs: Sequence[torch.cuda.CUDAGraph], outside: Sequence[object]) -> None:
        self._graphs = graphs
        self._outside = outside

    def __call__(self) -> None:
        for graph in self._graphs:
            graph.replay()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns True if the device had no memory for what raised this, also if the end of a capture raised after it."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def graphs_for(model: TriModeModel) -> Callable[[], Capture] | None:
    """Returns where the graphs of a model come from; None if its steps run without graphs.

    Without a GPU kernel, attention needs the sizes of the rows on the host, which a graph cannot have.
    """
    device = model.device
    if device.type != "cuda" or not model.describe_kernels()["paged_attention"].startswith("cuda"):
        return None
    return lambda: CudaCapture(device)
