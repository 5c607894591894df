"""Kinds of steps that a GPU runs without waiting for the host, and how much longer all other steps take.

A step of ar is prepared while the one before it runs, and a draft with its verify is one graph. Both need that all
requests do the same. Where some draft while others verify or run steps of ar, the device waits after every step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trimode.workers.engine.step_times import StepTimes

_BEFORE, _RATE, _MOST = 0.15, 0.1, 0.7
"""Logarithm of how many times as long a mixed step takes, before one has been seen; the share of the difference by
which each one changes that; and the most that counts."""
_MARGIN = 1.1
"""What mixed steps must promise beyond their time. They promise most where the drafts of some requests seem to come
further than those of others, and a part of that is chance."""


class Load(NamedTuple):
    """The requests that decode together."""

    num_choosers: int = 0
    """Requests that choose their widths."""
    other_requests: int = 0
    """Requests of other modes."""
    other_rows: int = 0
    """What those run in a step."""
    version: int = -1
    """Of the step times."""

    @property
    def num_requests(self) -> int:
        """Of all modes."""
        return self.num_choosers + self.other_requests

    @property
    def plain_rows(self) -> int:
        """Rows of a step in which all requests with a choice have width 1."""
        return self.num_choosers + self.other_rows


class StepKinds:
    """Tells mixed steps from the others."""

    def __init__(self) -> None:
        self.whole_from: int | None = None
        """Width from which on a draft and its verify are one step, if all requests have at least this width. None =
        kinds are not told apart, because the host computes the steps itself."""
        self.may_be_whole = False
        """True if no request that runs keeps drafts and verifies from being one step."""
        self._mixed = _BEFORE

    @property
    def longer(self) -> float:
        """How many times as long a mixed step takes."""
        return 1.0 if self.whole_from is None else math.exp(self._mixed)

    @property
    def handicap(self) -> float:
        """How many times as fast a plan with mixed steps must seem to be."""
        return _MARGIN * self.longer

    def ran(self, ratio: float) -> None:
        """Takes in a mixed step that took so many times as long as one of another kind takes."""
        self._mixed += _RATE * (min(max(math.log(ratio), 0.0), _MOST) - self._mixed)

    def ms(self, times: StepTimes, load: Load, width: int, some: int) -> float:
        """Returns the milliseconds of a step if some requests with a choice have a width, and the others 1."""
        ms = times.at(load.plain_rows + some * (width - 1), load.num_requests)
        whole = self.may_be_whole and some == load.num_requests and width >= (self.whole_from or 0)
        return ms if width == 1 or whole else self.longer * ms
