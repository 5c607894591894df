"""Decisions as a trained model would make them: how many drafts are accepted, how many positions are committed.

Random weights agree with nothing. So forward, head and sampler run for real, and only the two numbers that the host
reads from their result are replaced before the decoding state sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from trimode.workers.decode.chunk import Chunk, Commit, Sampled, Verify
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence


def evenly(mean: float, index: int) -> int:
    """Returns entry `index` of the integers next to `mean` whose running mean stays closest to it: 6.82 is 6, 7, 7."""
    return int((index + 1) * mean + 1e-9) - int(index * mean + 1e-9)


@dataclass(slots=True)
class Script:
    """The decisions of all requests of an engine."""

    accepted: float
    """Mean tokens per verify."""
    passes: float
    """Mean denoising passes per block of dlm."""
    _done: dict[tuple[str, str], int] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    """Passes that the present block of a request still takes."""

    def rewrite(self, request_id: str, chunk: Chunk, sampled: Sampled) -> None:
        """Replaces the decision in the result of one chunk."""
        if isinstance(chunk.selection, Verify):
            sampled.accepted = min(self._next(request_id, "verify", self.accepted), len(chunk.rows))
        elif isinstance(chunk.selection, Commit) and chunk.kind == "denoise":
            left = self._left.pop(request_id, 0) or self._next(request_id, "block", self.passes)
            count = -(-len(chunk.rows) // left)
            sampled.committed = [row < count for row in range(len(chunk.rows))]
            if left > 1:
                self._left[request_id] = left - 1
        elif isinstance(chunk.selection, Commit):
            sampled.committed = [True] * len(chunk.rows)  # the one pass of a draft

    def _next(self, request_id: str, what: str, mean: float) -> int:
        index = self._done.get((request_id, what), 0)
        self._done[request_id, what] = index + 1
        # requests are out of step with each other, as they are in service
        return max(1, evenly(mean, index + sum(map(ord, request_id))))


@contextmanager
def scripted(engine: Engine, script: Script) -> Iterator[None]:
    """Inside the block the engine's requests get the script's decisions."""
    plain = engine.scheduler.advance

    def advance(sequence: Sequence, chunk: Chunk, sampled: Sampled) -> None:
        script.rewrite(sequence.request_id, chunk, sampled)
        plain(sequence, chunk, sampled)

    engine.scheduler.advance = advance  # type: ignore[method-assign]
    try:
        yield
    finally:
        del engine.scheduler.advance


def dlm_passes(block: int, tokens_per_forward: float) -> float:
    """Returns the denoising passes per block that give so many tokens per forward; one more pass caches the block."""
    return block / tokens_per_forward - 1
