"""What the next reply will probably cost, from those that there were."""

from __future__ import annotations

FIRST_GUESS_TOKENS = 256
"""Expected length of a reply before any has been seen."""
WEIGHT = 0.05
"""Of the latest reply in the moving means."""


class Expected:
    """Moving means of the length and of the duration of a reply."""

    def __init__(self) -> None:
        self.tokens = float(FIRST_GUESS_TOKENS)
        self.seconds = 1.0

    def learn(self, tokens: int, seconds: float) -> None:
        """Takes in one reply."""
        self.tokens += WEIGHT * (tokens - self.tokens)
        self.seconds += WEIGHT * (seconds - self.seconds)

    def retry_after_s(self, waiting: int, places: int) -> int:
        """Returns the seconds after which a client may ask again: what those that wait take, 1 to 60."""
        return max(1, min(60, round(self.seconds * waiting / max(1, places))))
