"""When a request that runs steps of ar tries a draft, to see whether that pays by now."""

from __future__ import annotations

import math
from collections.abc import Callable

FIRST_PROBE, LAST_PROBE = 16, 128
"""Tokens of ar between two probes of a request: at first, and after many that failed."""
PROBE_WIDTH = 4
_SHARE = 0.01
"""Of all time, which probes may cost."""
_MOST_CREDIT = 16
"""Probes for which time is put aside at most."""


class Probes:
    """Keeps the cost of all probes in bounds."""

    def __init__(self) -> None:
        self.interval = float(FIRST_PROBE)
        """Tokens of ar before the second probe of a new request."""
        self._credit = math.inf
        """Milliseconds that probes may cost now. At first all requests may probe."""
        self._cost = self._token_ms = 0.0
        """Milliseconds that a probe and a token of ar cost."""
        self._pays: bool | None = None
        """True if drafts could pay at this load; None = not computed yet."""

    def passed(self, ms: float) -> None:
        """Takes in that steps took so long."""
        self._credit += _SHARE * ms

    def have_load(self, cost: float, token_ms: float) -> None:
        """Takes over what a probe and a token of ar cost from now on, in milliseconds."""
        self._cost, self._token_ms, self._pays = cost, token_ms, None
        self._credit = min(self._credit, _MOST_CREDIT * cost)

    def take(self, could_pay: Callable[[], bool]) -> bool:
        """Returns True if a request may probe now, which it then does.

        Args:
            could_pay: returns True if drafts that are right would pay. It is asked once per load.
        """
        if self._credit < self._cost:
            return False
        if self._pays is None:
            self._pays = could_pay()
        if self._pays:
            self._credit -= self._cost
        return self._pays

    def learn(self, interval: float, emitted: int) -> float:
        """Takes in the tokens that a probe gave. Returns the interval of its request from now on; it was `interval`."""
        if emitted <= PROBE_WIDTH // 2:
            self.interval = min(1.3 * self.interval, LAST_PROBE)
            return min(2 * interval, LAST_PROBE)
        self.interval = max(self.interval / 2.2, FIRST_PROBE)
        self._credit += (emitted - 2) * self._token_ms  # two steps of ar had given two tokens
        return FIRST_PROBE
