"""How far drafts come: the chance that one fails at its place if all before it were right.

That chance is one number per bin of places for the whole engine, times the difficulty of the request: 1 is average.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

PRIOR_FAILURES = (0.14, 0.10, 0.085, 0.07, 0.05)
"""Chance of failure by bin at the start. The bins are the places 1, 2-3, 4-7, 8-15, and from 16 on."""
_BIN_PRIOR = 30.0
"""How many tested places the chance counts for that a bin has by what is known of the others."""
_COMMON_PRIOR = 4.0
"""How many failures the chances at the start count for altogether."""
_LARGEST_CHANCE = 0.99
_KEPT = 0.998
"""What is left of the engine's counts after a cycle."""
_MAX_DIFFICULTY = 20.0
_FAST, _SLOW = 0.6 ** (1 / 6), 0.97
"""What is left of a request's counts after a token, and of those of its level after a cycle."""
_LEAST_PRIOR, _MOST_PRIOR = 2.0, 12.0
"""Failures that the start of a request's slow counts stands for: few where requests differ much."""
_FAST_SHARE = 0.75
"""What of these the start of its fast counts stands for."""
_SPREAD_KEPT, _SPREAD_PRIOR = 0.98, 8.0
"""What is left of the sums that tell how much requests differ, and the failures squared that they begin with."""
_TYPICAL_KEPT, _TYPICAL_PRIOR = 0.95, 3.0
"""The same of the counts of all requests together, by which a new request is judged."""


@dataclass(slots=True)
class RequestDrafts:
    """What the drafts of one request came to: failures, and how many the average request would have had."""

    fast_failures: float = 0.0
    fast_expected: float = 0.0
    """Of its last few tokens."""
    slow_failures: float = 0.0
    slow_expected: float = 0.0
    """Of its last dozens of cycles."""
    all_failures: float = 0.0
    all_expected: float = 0.0
    """Of all its cycles."""
    stretch: int = 0
    """Tokens since its last draft that failed."""
    stretches: list[int] = field(default_factory=list)
    """Tokens up to each draft that failed and to the end; for `Yields`, which empties it."""
    failed_in_a_row: int = 0
    """Cycles without an accepted draft, up to now."""
    typical: float = 1.0
    """Difficulty of the requests before it when it began."""
    prior: float = _LEAST_PRIOR
    """Failures that this stands for."""

    @property
    def difficulty(self) -> float:
        """How much more often the drafts fail than those of the average request."""
        slow = (self.slow_failures + self.prior * self.typical) / (self.slow_expected + self.prior)
        fast_prior = _FAST_SHARE * self.prior
        return (self.fast_failures + fast_prior * slow) / (self.fast_expected + fast_prior)

    @property
    def settled(self) -> float:
        """The difficulty of the whole request, as far as requests differ."""
        return (self.all_failures + self.prior * self.typical) / (self.all_expected + self.prior)

    @property
    def overall(self) -> float:
        """The difficulty of the whole request."""
        return (self.all_failures + 1) / (self.all_expected + 1)

    def forget(self, num_tokens: int) -> None:
        """Makes what happened count for less, after tokens without a draft."""
        self.fast_failures *= _FAST**num_tokens
        self.fast_expected *= _FAST**num_tokens

    def add(self, *, failed: bool, expected: float, accepted: int, emitted: int) -> None:
        """Takes in a cycle: True if a draft failed, the failures of an average request, and the cycle's tokens."""
        fade = _FAST**emitted
        self.fast_failures = self.fast_failures * fade + failed
        self.fast_expected = self.fast_expected * fade + expected
        self.slow_failures = self.slow_failures * _SLOW + failed
        self.slow_expected = self.slow_expected * _SLOW + expected
        self.all_failures += failed
        self.all_expected += expected
        self.failed_in_a_row = 0 if accepted else self.failed_in_a_row + 1


class Acceptance:
    """The chances of failure of all requests of an engine.

    Sums that fade are kept the other way round: what comes later weighs more, and a refresh makes it 1 again.
    """

    def __init__(self) -> None:
        self._failures = [0.0] * len(PRIOR_FAILURES)
        self._places = [0.0] * len(PRIOR_FAILURES)
        """By bin: failures, and tested places times the difficulty of their request by the typical one."""
        self._weight = 1.0
        """Of the last cycle in these."""
        self._ends = self._end_places = 0.0
        """Answers that ended inside a draft, and places of drafts in which they could end."""
        self._recent_failures = self._recent_expected = 0.0
        """Of the last cycles of all requests."""
        self._square, self._excess = _SPREAD_PRIOR * _LEAST_PRIOR, _SPREAD_PRIOR
        """Of requests that ended: expected failures squared, and how much farther the failures were from them, squared,
        than chance would have it."""
        self.end_chance = 0.0
        """That an answer ends at a place, as of the last `refresh`."""
        self.chances = list(PRIOR_FAILURES)
        """By bin, as of the last `refresh`."""
        self._expected = _expected(self.chances)

    @property
    def typical(self) -> float:
        """How much more often drafts have failed lately than the chances say."""
        return (self._recent_failures + _TYPICAL_PRIOR) / (self._recent_expected + _TYPICAL_PRIOR)

    def new_request(self) -> RequestDrafts:
        """Returns the drafts of a request that begins: it is taken to be like those before, as far as those were alike.

        Failures of a request of difficulty d are Poisson distributed around d times the expected ones. If d is gamma
        distributed with shape k, their variance is e + e * e / k, which gives k.
        """
        prior = self._square / max(self._excess, 1e-9)
        return RequestDrafts(typical=self.typical, prior=min(max(prior, _LEAST_PRIOR), _MOST_PRIOR))

    def ended(self, drafts: RequestDrafts) -> None:
        """Takes in how difficult a request turned out to be."""
        failures, expected = drafts.all_failures, drafts.all_expected
        self._square = _SPREAD_KEPT * self._square + expected**2
        self._excess = _SPREAD_KEPT * self._excess + (failures - expected) ** 2 - expected

    def learn(self, drafts: RequestDrafts, width: int, accepted: int, emitted: int, *, ended: bool = False) -> None:
        """Takes in a cycle of a request, see `WidthChooser.took`. Places behind the first failure are not tested.

        Drafts behind the end of an answer are of no use, however right they are, and one at its place costs nothing if
        it is wrong. They are not tested either. The end is counted apart, because it says nothing of how difficult the
        request is.
        """
        ended = ended or emitted <= accepted
        failed = accepted < width - 1 and not ended
        drafts.stretch += emitted
        if failed or ended:
            drafts.stretches.append(drafts.stretch)
            drafts.stretch = 0
        tested = emitted - 1 if ended else accepted + 1 if failed else width - 1
        self._weight /= _KEPT
        self._ends += ended * self._weight
        self._end_places += (tested + ended) * self._weight
        if tested < 1:
            return
        # Relative to the typical one: else difficulties could shrink and chances grow without end.
        weight = self._weight * min(drafts.difficulty / self.typical, _MAX_DIFFICULTY)
        last = min(tested.bit_length(), len(self._places)) - 1
        for number in range(last):
            self._places[number] += 2**number * weight
        self._places[last] += (tested + 1 - 2**last) * weight
        if failed:
            self._failures[last] += self._weight
        inside = min(tested, len(self._expected) - 1)
        expected = self._expected[inside] + (tested - inside) * self.chances[-1]
        self._recent_failures = _TYPICAL_KEPT * self._recent_failures + failed
        self._recent_expected = _TYPICAL_KEPT * self._recent_expected + expected
        drafts.add(failed=failed, expected=expected, accepted=accepted, emitted=emitted)

    def refresh(self) -> None:
        """Lets what was learned come into effect.

        A bin that was hardly tested follows the others: its chance at the start is multiplied by how much more often
        than at the start all tested places have failed. Else a batch that only tries narrow cycles would never find
        out that wide ones pay.
        """
        self._places = [places / self._weight for places in self._places]
        self._failures = [failures / self._weight for failures in self._failures]
        self._ends, self._end_places = self._ends / self._weight, self._end_places / self._weight
        self._weight = 1.0
        self.end_chance = self._ends / (self._end_places + _BIN_PRIOR)
        at_start = sum(places * chance for places, chance in zip(self._places, PRIOR_FAILURES, strict=True))
        common = (sum(self._failures) + _COMMON_PRIOR) / (at_start + _COMMON_PRIOR)
        self.chances = [
            min((failures + _BIN_PRIOR * common * chance) / (places + _BIN_PRIOR), _LARGEST_CHANCE)
            for failures, places, chance in zip(self._failures, self._places, PRIOR_FAILURES, strict=True)
        ]
        self._expected = _expected(self.chances)


def _expected(chances: Sequence[float]) -> list[float]:
    """Returns how many failures an average request has in the first 0, 1, 2, ... places, if all are tested."""
    return list(
        itertools.accumulate((chances[place.bit_length() - 1] for place in range(1, 2 ** len(chances))), initial=0)
    )


def speeds_at(difficulty: float, chances: Sequence[float], num_bins: int, end_chance: float = 0.0) -> list[float]:
    """Returns the tokens per forward of the widths 1, 4, 8, ..., 2 ** num_bins.

    Args:
        difficulty: of the request.
        chances: of failure by bin; the last goes on for all places behind it.
        num_bins: bins that the widest width spans, at least 2.
        end_chance: that the answer ends at a place.
    """
    reached = emitted = 1.0
    speeds = [1.0]
    for number in range(num_bins):
        chance = min(max(difficulty * chances[min(number, len(chances) - 1)] + end_chance, 0.002), 0.999)
        passed = (1 - chance) ** (2**number)
        emitted += reached * (1 - chance) * (1 - passed) / chance
        reached *= passed
        if number:
            speeds.append(emitted / 2)  # a draft and a verify
    return speeds
