"""Which workers fail what others answer. Such a worker is always the least loaded one, so it would get all requests."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

MANY = 3
"""Failures in a row that make a worker one that fails."""
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0


@dataclass(slots=True)
class Health:
    """What became of the last requests of one worker. A request that was refused or cancelled does not count."""

    failures: int = 0
    """Requests in a row that failed without a fault of their own that is known."""
    _rests_until: float = 0.0

    @property
    def fails(self) -> bool:
        """True if the last requests all failed."""
        return self.failures >= MANY

    def rests(self) -> bool:
        """True while it is to get no request. Between two rests it gets one, to see if it answers again."""
        return monotonic() < self._rests_until

    def answered(self) -> None:
        """Notes a request that was answered."""
        self.failures = 0
        self._rests_until = 0.0

    def failed(self) -> None:
        """Notes a request that failed. Each failure after the first ones doubles the rest."""
        self.failures += 1
        if self.fails:
            rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2 ** min(self.failures - MANY, 10))
            self._rests_until = monotonic() + rest_s
