"""The engine's counters: forwards by kind, tokens, steps, and seconds in the model and outside of it.

They follow exactly from the sums over all requests, less the prefill forwards that the prefix cache saved. One
exception: forwards of a request that had to start again, because the pages it shared were not finite, are counted here
and not in its reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimode.core.protocol import FORWARD_KINDS
from trimode.workers.decode.chunk import Chunk
from trimode.workers.decode.state import DecodeState


@dataclass(slots=True)
class EngineCounters:
    """Totals since the start of the engine."""

    steps: int = 0
    """Forwards of the model over whole batches."""
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FORWARD_KINDS, 0))
    """Chunks run, by kind: the sum of all requests' forwards, less the prefills that the prefix cache saved."""
    step_tokens: int = 0
    """Tokens run through the model, prompt tokens included."""
    kv_tokens: int = 0
    """Sum of the KV lengths that the chunks attended to."""
    dropped_rows: int = 0
    """Chunks that were launched ahead for requests that turned out to have ended. Nothing else counts them."""
    model_s: float = 0.0
    """Seconds in forward and sampling."""
    host_s: float = 0.0
    """Seconds of the steps outside of forward and sampling."""
    requests_finished: int = 0
    """Requests that ended without an error."""
    requests_failed: int = 0
    """Requests that ended with an error."""
    requests_cancelled: int = 0
    """Requests that were ended because nobody waits for them."""
    tokens_generated: int = 0
    """Tokens of finished requests."""
    nfe: int = 0
    """Function evaluations of finished requests, as the reference counts them."""
    accepted: int = 0
    """Tokens emitted by verifies of finished requests."""
    cycles: int = 0
    """Verifies of finished requests."""

    def record(self, chunks: Sequence[Chunk], *, step_s: float, model_s: float) -> None:
        """Counts one step. A step without chunks is not counted.

        Args:
            chunks: what ran.
            step_s: seconds of the whole step, from scheduling to the release of pages.
            model_s: seconds of these in forward and sampling.
        """
        if not chunks:
            return
        self.steps += 1
        for chunk in chunks:
            self.rows[chunk.kind] += 1
            self.step_tokens += len(chunk.token_ids)
            self.kv_tokens += chunk.position + len(chunk.token_ids)
        self.model_s += model_s
        self.host_s += step_s - model_s

    def finish(self, state: DecodeState, *, failed: bool) -> None:
        """Counts a request that ended."""
        if failed:
            self.requests_failed += 1
            return
        nfe = state.nfe(state.forwards)
        self.requests_finished += 1
        self.tokens_generated += len(state.tokens())
        self.nfe += nfe
        self.accepted += sum(state.acceptance_lengths)
        self.cycles += len(state.acceptance_lengths)
