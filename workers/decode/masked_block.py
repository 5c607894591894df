"""A block of tokens some of which are still masked: dlm denoises it, linear_spec drafts it."""

from __future__ import annotations

import math

from trimode.core.protocol import Top
from trimode.workers.decode.chunk import Sampled
from trimode.workers.decode.passes import BlockToken, TokenState


class MaskedBlock:
    """Starts as one known token followed by masks."""

    def __init__(self, seed: int, logprob: float, length: int, mask_token_id: int, top: Top = ()) -> None:
        self.tokens = [seed] + [mask_token_id] * (length - 1)
        self.logprobs = [logprob] + [0.0] * (length - 1)
        """Log-probability of each committed or forced token; 0 where the token is masked."""
        self.tops: list[Top] = [top] + [()] * (length - 1)
        """The most probable tokens where each was committed; empty unless asked for."""
        self.confidences: list[float | None] = [math.exp(logprob)] + [None] * (length - 1)
        """Confidence that each token was committed with; None where it is masked or forced."""
        self.set_by: list[int | None] = [0] + [None] * (length - 1)
        """Number of the pass that committed each token, from 1; 0 for the first and forced ones."""
        self.num_passes = 0
        self.masked = list(range(1, length))
        """Positions that are still masked, in ascending order."""

    def __len__(self) -> int:
        return len(self.tokens)

    def known(self) -> list[int]:
        """Returns the tokens that are not masked, in order."""
        return [token for position, token in enumerate(self.tokens) if position not in self.masked]

    def force(self, position: int, token: int, logprob: float = 0.0) -> None:
        """Sets a token that no forward has chosen. The position is no longer masked."""
        self.tokens[position] = token
        self.logprobs[position] = logprob
        self.confidences[position], self.set_by[position] = None, 0
        self.masked = [other for other in self.masked if other != position]

    def commit(self, sampled: Sampled) -> int:
        """Fills in the positions that a forward over the masked positions committed. Returns their number."""
        still = []
        self.num_passes += 1
        for row, position in enumerate(self.masked):
            if sampled.committed[row]:
                self.tokens[position] = sampled.tokens[row]
                self.logprobs[position] = sampled.logprobs[row]
                self.tops[position] = sampled.tops[row] if sampled.tops else ()
                self.confidences[position], self.set_by[position] = sampled.confidences[row], self.num_passes
            else:
                still.append(position)
        num_committed = len(self.masked) - len(still)
        self.masked = still
        return num_committed

    def shown(self, chosen: TokenState) -> list[BlockToken]:
        """Returns the block as watchers see it; `chosen` is the state of the tokens that are not masked."""
        columns = zip(self.tokens, self.confidences, self.set_by, strict=True)
        return [
            BlockToken(token, TokenState.MASK if number is None else chosen, confidence, number)
            for token, confidence, number in columns
        ]
