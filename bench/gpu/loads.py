"""Requests that keep an engine busy: the real modes, and steps of a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from trimode.core.protocol import DecodeParams, Top
from trimode.workers.decode.chunk import Chunk, Sampled, Verify
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.registry import MODES
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine import scheduler
from trimode.workers.engine.engine import Engine

NEVER = 1 << 16
"""More new tokens than any request here reaches."""


class FixedStep(DecodeState):
    """Runs the same block of tokens behind the prompt again and again, as a verify whose tokens are not kept."""

    @staticmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """Returns the forwards."""
        return sum(forwards.values())

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:
        self._emit([token], [logprob], [top])
        self._block = [token] + [self.context.mask_token_id] * (self.params.block_length - 1)

    def _next_chunk(self) -> Chunk:
        return Chunk(
            kind="verify",
            token_ids=self._block,
            position=self.cached,
            causal=True,
            keep_kv=True,
            rows=range(len(self._block)),
            purpose="verify",
            selection=Verify(),
            sample_offset=1,
        )

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        """Keeps nothing: the next step is this one again."""


def start(engine: Engine, params: DecodeParams, context: int, streams: int) -> list[scheduler.Sequence]:
    """Starts requests with different random prompts and runs the engine until all prompts are prefilled.

    Args:
        engine: without requests.
        params: of every request. With the mode `ar` and a block of several tokens it runs `FixedStep`.
        context: tokens of a prompt.
        streams: number of requests.
    """
    config = engine.model.config
    chance = torch.Generator().manual_seed(0)  # the same prompts again: their pages are still in the cache
    described = DecodeContext(config.mask_token_id, frozenset(config.eos_token_ids), 512)
    kind = FixedStep if params.mode == "ar" and params.block_length > 1 else MODES[params.mode]
    sequences = []
    for number in range(streams):
        prompt = torch.randint(config.vocab_size, (context,), generator=chance).tolist()
        sequences.append(scheduler.Sequence(str(number), kind(prompt, params, described)))
        engine.scheduler.add(sequences[-1])
    while any(sequence.state.cached < context for sequence in sequences):
        engine.step()
    return sequences


@contextmanager
def running(engine: Engine, params: DecodeParams, context: int, streams: int) -> Iterator[list[scheduler.Sequence]]:
    """Inside the block these requests run, see `start`. At its end they are ended, also after an error.

    Raises:
        RuntimeError: a request has ended inside the block, so that less was measured.
    """
    sequences = start(engine, params, context, streams)
    try:
        yield sequences
    except Exception:
        _clear(engine)
        raise
    stop(engine, sequences)


def stop(engine: Engine, sequences: Sequence[scheduler.Sequence]) -> None:
    """Ends the requests and frees their pages. RuntimeError if one has ended before, so that less was measured."""
    ended = [sequence.error or "its limit" for sequence in sequences if sequence not in engine.running]
    _clear(engine)
    if ended:
        raise RuntimeError(f"{len(ended)} of {len(sequences)} requests ended while they were measured: {ended[0]}")


def _clear(engine: Engine) -> None:
    for sequence in (*engine.running, *engine.waiting):
        engine.cancel(sequence)
    while engine.busy:
        engine.step()


def params_for(mode: str, block: int, threshold: float | None, room: int = NEVER) -> DecodeParams:
    """Returns greedy parameters that no end token ends.

    Args:
        mode: of the request.
        block: its block length.
        threshold: as in DecodeParams.
        room: most new tokens; the cache must hold them.
    """
    return DecodeParams(mode=mode, max_new_tokens=room, block_length=block, threshold=threshold, ignore_eos=True)
