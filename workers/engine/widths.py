"""How wide the next cycle of each request of the mode auto is: one token, or a block to draft and verify.

A wider cycle emits more tokens and adds more rows to the steps that all requests share. Each step the widths are chosen
for which the sum of all requests' speeds is largest, from the milliseconds of a step by its rows and from what each
request's last drafts came to. A request whose drafts fail runs steps of ar, and drafts once in a while to see whether
that has changed. Nothing here decides on tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimode.workers.engine.acceptance import Acceptance, RequestDrafts, speeds_at
from trimode.workers.engine.groups import FAIRNESS, NUM_LEVELS, Groups, bins_of, level_of
from trimode.workers.engine.hindsight import Hindsight
from trimode.workers.engine.step_times import StepTimes

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
_FEW = 8
"""The engine's counts come into effect after `_REBUILD` cycles with a draft, or as many steps, and at least `_FEW` of
both: with many requests there are dozens of cycles in a step."""


@dataclass(slots=True, eq=False)
class Chooser:
    """The widths of one request, and what its drafts came to."""

    policy: Widths
    menu: int
    """Number of the widths that it may have."""
    level: int = NUM_LEVELS // 2
    planned: int = 1
    """Width of its next cycle."""
    speed_number: int = 0
    """Number of the width whose speed a cycle that runs has."""
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
        if width > 1:
            self.running = width
            self.speed_number = min(max(0, width.bit_length() - 2), self.menu)
            self.probing = self.plans_probe
            self.policy.changed = True
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
            self.level = level_of(self.drafts.difficulty)
            return
        self.since += 1
        if self.since % _FADE:
            return
        self.drafts.forget(_FADE)
        level = level_of(self.drafts.difficulty)
        if level != self.level or (self.since >= self.interval and self.policy.may_probe):
            self.level = level
            self.policy.changed = True


class _Costs(dict[int, float]):
    """Time of a step of so many requests to the power of FAIRNESS, by rows. Computed once, because plans ask often."""

    def __init__(self, times: StepTimes, num_requests: int) -> None:
        super().__init__()
        self._times, self._num_requests = times, num_requests

    def __missing__(self, rows: int) -> float:
        found: float = self._times.at(rows, self._num_requests) ** FAIRNESS
        self[rows] = found
        return found


class Widths:
    """Chooses the widths of all requests of an engine. Needs no tensor library."""

    def __init__(self, times: StepTimes | None = None) -> None:
        self.times = times or StepTimes()
        """May be replaced between steps."""
        self._acceptance = Acceptance()
        self._interval = float(FIRST_PROBE)
        self._num_cycles = self._num_steps = 0
        """Cycles with a draft, and steps, since the engine's counts came into effect."""
        self._num_menus = 0
        self._groups = Groups()
        self._hindsight = Hindsight()
        self._credit, self._probe_ms, self._token_ms = math.inf, 0.0, 0.0
        """Milliseconds that probes may cost now, and what a probe and a token of ar cost. At first all may probe."""
        self._costs = _Costs(self.times, 1)
        self._pays = False
        """True if one request or all could gain by drafting."""
        self._load = (0, 0, 0, -1)
        """Requests with a choice, requests and rows of other modes, and version of the times, as of the last plan."""
        self.changed = False
        """True if something other than the load may call for another plan than the last one."""

    @property
    def may_probe(self) -> bool:
        """True if the next plan may have a probe."""
        return self._pays and self._credit >= self._probe_ms

    def new_chooser(self, most: int) -> Chooser:
        """Returns the chooser of a request whose cycles are at most so wide."""
        menu = max(0, (most - 1).bit_length() - 2)
        if menu >= self._num_menus:
            self._num_menus, self._load = menu + 1, (0, 0, 0, -1)
        made = Chooser(self, menu, interval=self._interval, since=FIRST_PROBE)  # it may begin with a probe
        made.drafts.typical = self._acceptance.typical
        made.level = level_of(made.drafts.difficulty)
        return made

    def ran(self, rows: int, requests: int, ms: float) -> None:
        """Takes in the milliseconds of a step without slices of prompts."""
        self.times.ran(rows, ms, requests)

    def passed(self, rows: int, requests: int, num_forwards: int) -> None:
        """Takes in that forwards ran with so many rows of so many requests each, beside slices of prompts."""
        self._num_steps += 1
        if rows:
            ms = num_forwards * self.times.at(rows, requests)
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
        load = (len(choosers), other_requests, other_rows, self.times.version)
        begun = [chooser for chooser in choosers if chooser.began is None]
        if load == self._load and not begun and not self.changed:
            return
        if load != self._load or begun:
            self._look()
        if load != self._load:
            self._take_load(load)
        for chooser in begun:
            chooser.began = list(self._hindsight.forwards)
        self.changed = False
        self._plan(choosers)

    def _look(self) -> None:
        """Attributes the time that has passed to the load under which it passed."""
        num_choosers, other_requests, other_rows, _ = self._load
        if num_choosers:
            num_requests = num_choosers + other_requests
            widths = bins_of(self._num_menus - 1)
            self._hindsight.look(num_choosers, other_rows, widths, lambda rows: self.times.at(rows, num_requests))

    def _take_load(self, load: tuple[int, int, int, int]) -> None:
        self._load = load
        num_choosers, other_requests, other_rows, _ = load
        num_requests, plain_rows = num_choosers + other_requests, num_choosers + other_rows
        self._costs = _Costs(self.times, num_requests)
        plain = self.times.at(plain_rows, num_requests)
        self._token_ms = plain / num_requests
        self._probe_ms = 2 * (self.times.at(plain_rows + PROBE_WIDTH - 1, num_requests) - plain)
        self._pays = any(
            (num_requests - some + some * width / 2) / self.times.at(plain_rows + some * (width - 1), num_requests)
            > _PROBE_GAIN * num_requests / plain
            for width in (2**bins for bins in range(2, bins_of(self._num_menus)))
            for some in (1, num_choosers)
        )

    def _plan(self, choosers: Sequence[Chooser]) -> None:
        counts, idle, speeds = Counter[int](), [], self._groups.speeds
        speed, rows = float(self._load[1]), self._load[2]
        for chooser in choosers:
            group = chooser.menu * NUM_LEVELS + chooser.level
            if chooser.running:
                speed += speeds(group)[chooser.speed_number]
                rows += chooser.running
            else:
                counts[group] += 1
                idle.append((chooser, group))
        if not idle:
            return
        for group in counts:
            speeds(group)
        widths, part, num_part = self._groups.best(counts, speed + len(idle), rows + len(idle), self._costs)
        self._credit = min(self._credit, _MOST_CREDIT * self._probe_ms)
        for chooser, group in idle:
            width = widths.get(group, 1)
            if part is not None and group == part.group and num_part:
                width = part.width
                num_part -= 1
            if chooser.drafts.failed_in_a_row >= STREAK:
                width = 1
            chooser.planned, chooser.plans_probe = width, False
            if width == 1 and chooser.since >= chooser.interval and self.may_probe:
                self._credit -= self._probe_ms
                chooser.planned, chooser.plans_probe = PROBE_WIDTH, True

    def in_hindsight(self, chooser: Chooser, began: Sequence[float]) -> Mapping[int, float]:
        """Returns by width what a request would have got since `began`, had all always had that width."""
        self._look()
        known = self._acceptance
        rates = speeds_at(chooser.drafts.overall, known.chances, bins_of(chooser.menu), known.end_chance)
        return self._hindsight.tokens(began, rates)

    def learn(self, chooser: Chooser, width: int, accepted: int, emitted: int) -> None:
        """Takes in a finished cycle of a request."""
        self._acceptance.learn(chooser.drafts, width, accepted, emitted)
        if chooser.probing:
            self._after_probe(chooser, emitted)
        chooser.since, chooser.probing = 0, False
        self._num_cycles += 1
        self.changed = True
        if min(self._num_cycles, self._num_steps) >= _FEW and max(self._num_cycles, self._num_steps) >= _REBUILD:
            self._num_cycles = self._num_steps = 0
            self._acceptance.refresh()
            self._groups.refresh(self._acceptance.chances, self._acceptance.end_chance)

    def _after_probe(self, chooser: Chooser, emitted: int) -> None:
        if emitted <= PROBE_WIDTH // 2:
            chooser.interval = min(2 * chooser.interval, LAST_PROBE)
            self._interval = min(1.3 * self._interval, LAST_PROBE)
        else:
            chooser.interval = FIRST_PROBE
            self._interval = max(self._interval / 2.2, FIRST_PROBE)
            self._credit += (emitted - 2) * self._token_ms  # two steps of ar had given two tokens
