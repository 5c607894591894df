"""Records what a function runs on the device, to run it again without the host's work: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from trimode.workers.model.transformer import TriModeModel


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


class CudaCapture(Capture):
    """CUDA graphs with one memory pool, captured on one stream and replayed on the current one."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, body: Callable[[], None], outside: Sequence[object]) -> Callable[[], None]:
        """Runs `body` once, so that every kernel is compiled and loaded, then captures it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            body()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that read weights for their hash, may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            body()
        return _Replay(graph, outside)


class _Replay:
    """One captured graph, and what must live as long as it does."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outside: Sequence[object]) -> None:
        self._graph = graph
        self._outside = outside

    def __call__(self) -> None:
        self._graph.replay()


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
