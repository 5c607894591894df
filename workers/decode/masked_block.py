"""A block of tokens of which some are still masked, as dlm denoises it and linear_spec drafts it.

Knows nothing of thresholds, caches or why a position was committed.
"""

from __future__ import annotations

from trimode.workers.decode.chunk import Sampled


class MaskedBlock:
    """Begins with one known token and masks behind it."""

    def __init__(self, seed: int, logprob: float, length: int, mask_token_id: int) -> None:
        self.tokens = [seed] + [mask_token_id] * (length - 1)
        self.logprobs = [logprob] + [0.0] * (length - 1)
        """Of the committed tokens; 0 where the token is masked or was forced."""
        self.masked = list(range(1, length))
        """Positions still masked, ascending."""

    def __len__(self) -> int:
        return len(self.tokens)

    def force(self, position: int, token: int) -> None:
        """Puts a token there that no pass has chosen."""
        self.tokens[position] = token
        self.masked = [other for other in self.masked if other != position]

    def commit(self, sampled: Sampled) -> int:
        """Takes in what a pass over the masked positions committed; returns how many that were."""
        still = []
        for row, position in enumerate(self.masked):
            if sampled.committed[row]:
                self.tokens[position] = sampled.tokens[row]
                self.logprobs[position] = sampled.logprobs[row]
            else:
                still.append(position)
        num_committed = len(self.masked) - len(still)
        self.masked = still
        return num_committed
