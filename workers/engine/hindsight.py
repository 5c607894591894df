"""What each fixed width would have given in the time that the requests of the mode auto took.

An estimate, by the step times by which widths are chosen, and by what the drafts of a request came to in the end. A
fixed width is one that all requests of the mode have in every cycle. The regret is what the best of them would have
given beyond what the requests got. Slices of prompts count for nothing here, because they cost the same at every width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def widths_up_to(count: int) -> list[int]:
    """Returns the first widths of all: 1, 4, 8 and so on."""
    return [1, *(2**bins for bins in range(2, count + 1))][:count]


class Hindsight:
    """Counts the forwards for which there would have been time at each width."""

    def __init__(self) -> None:
        self.forwards: list[float] = []
        """By number of the width, since the start of the engine."""
        self._ms = 0.0

    def passed(self, ms: float) -> None:
        """Takes in a step that took so long without its slices of prompts."""
        self._ms += ms

    def look(self, num_widths: int, ms_of: Callable[[int], float]) -> None:
        """Adds what has passed since the last look.

        Args:
            num_widths: number of widths of the request that may have the widest cycles.
            ms_of: returns the milliseconds of a step in which all requests of the mode have a width.
        """
        self.forwards += [0.0] * (num_widths - len(self.forwards))
        if self._ms:
            for number, width in enumerate(widths_up_to(num_widths)):
                self.forwards[number] += self._ms / ms_of(width)
            self._ms = 0.0

    def tokens(self, since: Sequence[float], rates: Sequence[float]) -> dict[int, float]:
        """Returns by width what a request would have got.

        Args:
            since: `forwards` when it began; shorter if there were fewer widths then.
            rates: its tokens per forward by number of the width.
        """
        before = [*since, *[0.0] * len(rates)]
        pairs = zip(widths_up_to(len(rates)), self.forwards, before, rates, strict=False)
        return {width: rate * (forwards - began) for width, forwards, began, rate in pairs}
