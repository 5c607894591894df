"""The engine's counters: forwards by kind, tokens, steps, and seconds in the model and outside of it.

They follow exactly from the sums over all requests, less the prefill forwards that the prefix cache saved and less what
other workers had run of continued requests. One exception: forwards of a request that had to start again, because the
pages it shared were not finite, are counted here and not in its reply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from trimode.core.worker import EngineTotals
from trimode.workers.decode.chunk import Chunk
from trimode.workers.decode.state import DecodeState


class EngineCounters(EngineTotals):
    """The totals of one engine, and how they grow."""

    __slots__ = ()

    def reset(self) -> None:
        """Sets all counts to zero."""
        for name, value in dataclasses.asdict(EngineTotals()).items():
            setattr(self, name, value)

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
            if chunk.again:
                self.continued_rows += 1
            else:
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
        # All is read before anything is counted: a record that cannot be read makes the request one that failed.
        nfe, lengths = state.nfe(state.forwards), state.acceptance_lengths
        widths, fixed = state.widths, state.fixed_tokens
        self.requests_finished += 1
        self.tokens_generated += len(state.tokens())
        self.continued_tokens += 0 if state.continued is None else state.continued.end
        self.nfe += nfe
        self.accepted += sum(lengths)
        self.cycles += len(lengths)
        for width, count in widths.items():
            self.widths[str(width)] = self.widths.get(str(width), 0) + count
        if fixed and state.continued is None:
            self.chosen_tokens += len(state.tokens()) - 1
            self._add_fixed(fixed)

    def _add_fixed(self, fixed: Mapping[int, float]) -> None:
        """Adds what a request would have got by width. Both it and the sums name the first widths of all, see `Cost`.

        Where the others are wider, the request counts with its widest: with a sum over some requests only, the width
        that would have been the best one for all seems a bad one.
        """
        before = own = 0.0  # of the requests up to now, and of this one: at the width, or else at the widest
        for width in sorted({*map(int, self.fixed_tokens), *fixed}):
            before, own = self.fixed_tokens.get(str(width), before), fixed.get(width, own)
            self.fixed_tokens[str(width)] = before + own
