"""How wide the next cycle of each request of the mode auto is: one token, or a block to draft and verify.

A wider cycle emits more tokens and adds more rows to the steps that all requests share. Each step the widths are chosen
for which the sum of all requests' speeds is largest, from the milliseconds of a step by its rows and from what each
request's last drafts came to. A request whose drafts fail runs steps of ar, and drafts once in a while to see whether
that has changed. Nothing here decides on tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimode.workers.engine.acceptance import Acceptance, RequestDrafts, speeds_at
from trimode.workers.engine.hindsight import Hindsight
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widenings import Widening, widenings_of

FAIRNESS = 0.7
"""Power of a request's speed in the sum that is made large: below 1, so that slow requests count for more."""
NUM_LEVELS = 41
_LEVEL_STEP = 0.15
"""Difficulties are rounded to levels, which stand so far apart in their logarithm."""

STREAK = 6
"""Cycles without an accepted draft, one after the other, after which a request runs steps of ar."""
PROBE_WIDTH = 4
FIRST_PROBE, LAST_PROBE = 16, 128
"""Tokens of ar between two probes: at first, and after many that failed."""
_PROBE_GAIN = 1.02
"""A probe must be able to gain so much, if all drafts were right."""
_PROBE_SHARE = 0.01
"""Of all time, which probes may cost."""
_MOST_CREDIT = 16
"""Probes for which time is put aside at most."""
_FADE = 4
"""Tokens of ar after which what drafts came to is looked at again: doing so at each would cost time."""
_REBUILD = 64
"""Cycles after which the engine's counts come into effect."""


@dataclass(slots=True, eq=False)
class Chooser:
    """The widths of one request, and what its drafts came to."""

    policy: Widths
    menu: int
    """Number of the widths that it may have."""
    level: int = NUM_LEVELS // 2
    planned: int = 1
    """Width of its next cycle."""
    running: int = 0
    """Width of the cycle with a draft that runs or begins; 0 = none."""
    probing: bool = False
    """True if that cycle is a probe."""
    plans_probe: bool = False
    """True if the planned one is."""
    since: int = 0
    """Tokens of ar since the last draft."""
    interval: float = FIRST_PROBE
    """Tokens of ar before the next probe."""
    drafts: RequestDrafts = field(default_factory=RequestDrafts)
    began: list[float] | None = None
    """Forwards of every width for which there had been time when it began; None = it has not begun."""

    def choose(self, most: int) -> int:
        """See `WidthChooser`."""
        width = min(self.planned, most)
        if width < PROBE_WIDTH:
            width = 1
        self.running = width if width > 1 else 0
        self.probing = self.plans_probe and width > 1
        return width

    @property
    def fixed_tokens(self) -> Mapping[int, float]:
        """See `WidthChooser`."""
        return {} if self.began is None else self.policy.in_hindsight(self, self.began)

    def took(self, width: int, accepted: int, emitted: int) -> None:
        """See `WidthChooser`."""
        if width > 1:
            self.policy.learn(self, width, accepted, emitted)
            self.running = 0
        else:
            self.since += 1
            if self.since % _FADE:
                return
            self.drafts.forget(_FADE)
        self.level = _level(self.drafts.difficulty)


def _level(difficulty: float) -> int:
    return min(max(round(math.log(difficulty) / _LEVEL_STEP) + NUM_LEVELS // 2, 0), NUM_LEVELS - 1)


def _bins(menu: int) -> int:
    """Returns how many bins of places the widest width of a menu spans. Its widths are 1, 4, 8, ..., 2 ** bins."""
    return menu + 2


class Widths:
    """Chooses the widths of all requests of an engine. Needs no tensor library."""

    def __init__(self, times: StepTimes | None = None) -> None:
        self.times = times or StepTimes()
        """May be replaced between steps."""
        self._acceptance = Acceptance()
        self._interval = float(FIRST_PROBE)
        self._num_cycles = 0
        self._num_menus = 0
        self._speeds: list[list[float]] = []
        """By group and by number of the width: speed to the power of FAIRNESS."""
        self._hindsight = Hindsight()
        self._credit = 0.0
        """Milliseconds that probes may cost now."""
        self._widenings: list[Widening] = []
        self._order: list[int] = []
        """The group of each."""
        self._menus: set[int] = set()
        """Those that a request had."""
        self._costs: dict[int, float] = {}
        self._pays: dict[tuple[int, int, int], bool] = {}
        self._version = -1

    def new_chooser(self, most: int) -> Chooser:
        """Returns the chooser of a request whose cycles are at most so wide."""
        menu = max(0, (most - 1).bit_length() - 2)
        if menu not in self._menus:
            self._menus.add(menu)
            self._num_menus = max(self._num_menus, menu + 1)
            self._rebuild()
        made = Chooser(self, menu, interval=self._interval)
        made.drafts.typical = self._acceptance.typical
        made.level = _level(made.drafts.difficulty)
        return made

    def ran(self, rows: int, ms: float) -> None:
        """Takes in the milliseconds of a step without slices of prompts."""
        self.times.ran(rows, ms)

    def passed(self, rows: int, num_forwards: int) -> None:
        """Takes in that forwards ran with so many rows each beside slices of prompts."""
        if rows:
            ms = num_forwards * self.times.at(rows)
            self._hindsight.passed(ms)
            self._credit += _PROBE_SHARE * ms

    def plan(self, choosers: Sequence[Chooser], other_requests: int = 0, other_rows: int = 0) -> None:
        """Plans the next cycle of every request that is between two cycles.

        Rows of prompts must not be counted: they come once, and would make drafts look cheap when they are dearest.

        Args:
            choosers: of all requests that decode.
            other_requests: number of requests of other modes that decode.
            other_rows: what these run in a step.
        """
        if not choosers:
            return
        if self._version != self.times.version:
            self._version = self.times.version
            self._costs, self._pays = {}, {}
        self._hindsight.look(len(choosers), other_rows, _bins(self._num_menus - 1), self.times.at)
        counts = [0] * (self._num_menus * NUM_LEVELS)
        speed, rows, idle = float(other_requests), other_rows, []
        for chooser in choosers:
            if chooser.began is None:
                chooser.began = list(self._hindsight.forwards)
            if chooser.running:
                number = max(0, chooser.running.bit_length() - 2)
                speeds = self._speeds[chooser.menu * NUM_LEVELS + chooser.level]
                speed += speeds[min(number, len(speeds) - 1)]
                rows += chooser.running
            else:
                counts[chooser.menu * NUM_LEVELS + chooser.level] += 1
                speed += 1.0
                rows += 1
                idle.append(chooser)
        if not idle:
            return
        widths, part, num_part = self._best(counts, speed, rows)
        pays = self._probe_pays(len(choosers) + other_requests, len(choosers), other_rows - other_requests)
        probe_ms = 2 * (self.times.at(rows + PROBE_WIDTH - 1) - self.times.at(rows))
        self._credit = min(self._credit, _MOST_CREDIT * probe_ms)
        if not widths and part is None and not (pays and self._credit >= probe_ms):
            for chooser in idle:
                chooser.planned, chooser.plans_probe = 1, False
            return
        for chooser in idle:
            group = chooser.menu * NUM_LEVELS + chooser.level
            width = widths.get(group, 1)
            if part is not None and group == part.group and num_part:
                width = part.width
                num_part -= 1
            if chooser.drafts.failed_in_a_row >= STREAK:
                width = 1
            chooser.plans_probe = width == 1 and chooser.since >= chooser.interval and pays and self._credit >= probe_ms
            if chooser.plans_probe:
                self._credit -= probe_ms
            chooser.planned = PROBE_WIDTH if chooser.plans_probe else width

    def _best(self, counts: list[int], speed: float, rows: int) -> tuple[dict[int, int], Widening | None, int]:
        """Returns the widths by group that give the largest sum of speeds, if one widening follows the other.

        Every prefix is tried, because the times of steps have kinks. The last widening may be taken by some requests
        of its group only: it comes apart, with their number.
        """
        cost = self._cost
        best, cut, taken = speed / cost(rows), 0, 0
        for number, group in enumerate(self._order):
            if not counts[group]:
                continue
            widening = self._widenings[number]
            for i in range(counts[group]):
                speed += widening.speed
                rows += widening.rows
                value = speed / cost(rows)
                if value > best:
                    best, cut, taken = value, number, i + 1
        if not taken:
            return {}, None, 0
        widths = {widening.group: widening.width for widening in self._widenings[:cut] if counts[widening.group]}
        return widths, self._widenings[cut], taken

    def _cost(self, rows: int) -> float:
        found = self._costs.get(rows)
        if found is None:
            found = self._costs[rows] = self.times.at(rows) ** FAIRNESS
        return found

    def _probe_pays(self, num_requests: int, num_choosers: int, more_rows: int) -> bool:
        """Returns True if one request or all would gain by drafting, were all drafts right."""
        key = (num_requests, num_choosers, more_rows)
        found = self._pays.get(key)
        if found is None:
            plain = num_requests / self.times.at(num_requests + more_rows)
            found = self._pays[key] = any(
                (num_requests - some + some * width / 2) / self.times.at(num_requests + more_rows + some * (width - 1))
                > _PROBE_GAIN * plain
                for width in (2**bins for bins in range(2, _bins(self._num_menus)))
                for some in (1, num_choosers)
            )
        return found

    def in_hindsight(self, chooser: Chooser, began: Sequence[float]) -> Mapping[int, float]:
        """Returns by width what a request would have got since `began`, had all always had that width."""
        rates = speeds_at(chooser.drafts.overall, self._acceptance.chances, _bins(chooser.menu))
        return self._hindsight.tokens(began, rates)

    def learn(self, chooser: Chooser, width: int, accepted: int, emitted: int) -> None:
        """Takes in a finished cycle of a request."""
        self._acceptance.learn(chooser.drafts, width, accepted, emitted)
        if chooser.probing:
            self._after_probe(chooser, emitted)
        chooser.since, chooser.probing = 0, False
        self._num_cycles += 1
        if self._num_cycles % _REBUILD == 0:
            self._rebuild()

    def _after_probe(self, chooser: Chooser, emitted: int) -> None:
        if emitted <= PROBE_WIDTH // 2:
            chooser.interval = min(2 * chooser.interval, LAST_PROBE)
            self._interval = min(1.3 * self._interval, LAST_PROBE)
        else:
            chooser.interval = FIRST_PROBE
            self._interval = max(self._interval / 2.2, FIRST_PROBE)

    def _rebuild(self) -> None:
        """Computes all widenings from the engine's counts."""
        self._acceptance.refresh()
        self._speeds = []
        self._widenings = []
        self._pays = {}
        for group in range(self._num_menus * NUM_LEVELS):
            menu, level = divmod(group, NUM_LEVELS)
            difficulty = math.exp(_LEVEL_STEP * (level - NUM_LEVELS // 2))
            speeds = [speed**FAIRNESS for speed in speeds_at(difficulty, self._acceptance.chances, _bins(menu))]
            self._speeds.append(speeds)
            if menu in self._menus:
                self._widenings += widenings_of(group, speeds)
        self._widenings.sort(key=lambda widening: -widening.gain)
        self._order = [widening.group for widening in self._widenings]
