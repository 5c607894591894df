"""How many cycles of a width a text takes, by how many were expected.

The expectation is that drafts fail with some chance at each place, whatever was before, and that answers end so. Real
text has patterns: drafts fail where a new thought begins, and the next cycle begins behind it. So a text is taken to
consist of stretches, each up to the next draft that fails or to the end, and a stretch of 20 tokens takes five cycles
of width 4, two of 16 and one of 32. That says something of every width, whatever the widths were that ran.
"""

from __future__ import annotations

from trimode.workers.engine.acceptance import Acceptance, RequestDrafts, speeds_at

_KEPT = 0.995
"""What is left of the sums after another stretch."""
_PRIOR = 8.0
"""Cycles for which it counts that the expectation is right."""
_LEAST, _MOST = 0.75, 1.33
"""Of a factor."""
_TRUST = 0.5
"""Power of a factor: another width cuts a text at other places, and there a draft may not fail that failed."""
_MANY = 16
"""Stretches of a request that has not ended, after which they are counted."""


class Yields:
    """What cycles give by what is expected, by number of the width. The widths are 1, 4, 8 and so on."""

    def __init__(self) -> None:
        self._expected: list[float] = []
        self._taken: list[float] = []

    def add(self, drafts: RequestDrafts, known: Acceptance, num_bins: int, *, ended: bool) -> None:
        """Takes in the stretches of a request, if it has just ended or if there are many.

        Args:
            drafts: of the request. What is expected is what fits the difficulty that it turned out to have.
            known: the chances of failure of all requests.
            num_bins: bins of places that the widest width spans.
            ended: True if no more stretches of it will come.
        """
        if not drafts.stretches or not (ended or len(drafts.stretches) >= _MANY):
            return
        stretches, drafts.stretches = drafts.stretches, []
        more = num_bins - len(self._taken)
        self._expected += [0.0] * more
        self._taken += [0.0] * more
        kept, total = _KEPT ** len(stretches), sum(stretches)
        for number, speed in enumerate(speeds_at(drafts.settled, known.chances, num_bins, known.end_chance)):
            if number:
                width = 2 ** (number + 1)
                self._expected[number] = self._expected[number] * kept + total / (2 * speed)
                self._taken[number] = self._taken[number] * kept + sum(-(-length // width) for length in stretches)

    @property
    def factors(self) -> list[float]:
        """By number of the width: what a cycle gives by what is expected of it; 1 where little is known."""
        pairs = zip(self._expected, self._taken, strict=True)
        ratios = ((expected + _PRIOR) / (taken + _PRIOR) for expected, taken in pairs)
        return [min(max(ratio, _LEAST), _MOST) ** _TRUST for ratio in ratios]
