"""How wide the next cycle of each request of the mode auto is: one token, or a block to draft and verify.

A wider cycle emits more tokens and adds more rows to the steps that all requests share. The widths of all requests
together are chosen for which the sum of their speeds is largest, from the milliseconds of a step by its rows and from
what each request's last drafts came to. They are chosen as if no cycle ran: chosen beside the rows of cycles that run,
drafts would look cheap for as long as most of the others draft. A request whose drafts fail runs steps of ar, and
drafts once in a while to see whether that has changed. Nothing here decides on tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trimode.workers.engine.acceptance import Acceptance, RequestDrafts, speeds_at
from trimode.workers.engine.groups import FAIRNESS, NUM_LEVELS, Costs, Groups, Plan, bins_of, level_of
from trimode.workers.engine.hindsight import Hindsight, widths_up_to
from trimode.workers.engine.probes import FIRST_PROBE, PROBE_WIDTH, Probes
from trimode.workers.engine.step_kinds import Load, StepKinds
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.yields import Yields

STREAK = 6
"""Cycles without an accepted draft, one after the other, after which a request runs steps of ar."""
_STEADY = 8
"""Cycles for which a request keeps its width rather than to change to the next one."""
_PROBE_GAIN = 1.05
"""A probe must be able to gain so much, if all drafts were right."""
_FADED = 0.02
"""Failures that the last drafts of a request were expected to have, below which they are as good as forgotten."""
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
    group: int
    """Number of the requests with this menu and this level of difficulty."""
    widest: int
    """Width that its cycles have at most."""
    running: int = 0
    """Width of the cycle with a draft that runs or begins; 0 = none."""
    last: int = 1
    """Width that was chosen last."""
    num_same: int = 0
    """Choices since then that kept it."""
    probing: bool = False
    """True if that cycle is a probe."""
    since: int = FIRST_PROBE
    """Tokens of ar since the last draft. It may probe at once."""
    interval: float = FIRST_PROBE
    """Tokens of ar before the next probe."""
    drafts: RequestDrafts = field(default_factory=RequestDrafts)
    began: list[float] | None = None
    """Forwards of every width for which there had been time when it began; None = it has not begun."""

    @property
    def plain_steps(self) -> int:
        """See `WidthChooser`. More than one, because every choice costs time."""
        return 4

    def choose(self, most: int) -> int:
        """See `WidthChooser`."""
        policy = self.policy
        if self.began is None:
            self.began = policy.forwards_by_now()
        width = self._steady(policy.width_of(self))
        if width == 1 and self.since >= self.interval and most >= PROBE_WIDTH and policy.takes_probe():
            width, self.probing = PROBE_WIDTH, True
        width, least = min(width, most), policy.least
        if most > 1 and width < least <= self.widest:  # a narrower draft would make the step of all a mixed one
            width = least
        if width < PROBE_WIDTH:
            return 1
        self.running = width
        return width

    @property
    def fixed_tokens(self) -> Mapping[int, float]:
        """See `WidthChooser`."""
        return {} if self.began is None else self.policy.in_hindsight(self, self.began)

    def took(self, width: int, accepted: int, emitted: int, *, ended: bool = False) -> None:
        """See `WidthChooser`."""
        if width > 1:
            self.policy.learn(self, width, accepted, emitted, ended=ended)
            self.running = 0
            self._set_group()
            return
        self.since += emitted
        self.drafts.stretch = 0  # whether drafts had failed in these places is not known
        if self.drafts.fast_expected > _FADED:
            self.drafts.forget(emitted)
            self._set_group()

    def _steady(self, width: int) -> int:
        """Returns the width, or the one before if that is next to it and has had few cycles.

        Next to the best width the speed is nearly the same, and what is known of one request is noisy. A text with a
        pattern, as most have, takes more cycles if the widths change among them.
        """
        if self.num_same < _STEADY and self.last in (2 * width, width // 2) and width > 2:
            self.num_same += 1
            return self.last
        self.num_same = self.num_same + 1 if width == self.last and self.num_same < _STEADY else 0
        self.last = width
        return width

    def _set_group(self) -> None:
        self.group = self.menu * NUM_LEVELS + level_of(self.drafts.difficulty)


class Widths:
    """Chooses the widths of all requests of an engine. Needs no tensor library."""

    def __init__(self, times: StepTimes | None = None) -> None:
        self.times = times or StepTimes()
        """May be replaced between steps. Of steps that are not mixed, see `kinds`."""
        self.kinds = StepKinds()
        self._acceptance, self._yields = Acceptance(), Yields()
        self._num_cycles = self._num_steps = 0
        """Cycles with a draft, and steps, since the engine's counts came into effect."""
        self._num_menus = 0
        self._groups = Groups()
        self._hindsight = Hindsight()
        self._probes = Probes()
        self.before_choice: Callable[[], None] | None = None
        """Calls `plan`, once before the next choice; None = the last plan is new enough."""
        self._costs: dict[int, Costs] = {}
        """By the number of requests, of the present times."""
        self._load = Load()
        """As of the last plan."""
        self._planned: Sequence[int] | None = None
        """The groups of the requests in the last plan; None = a new plan is due."""
        self._found = Plan()
        self.least = 1
        """Width that all requests have at least, by the plan."""
        self._by_group: dict[int, int] = {}
        """Width of a group by the plan, for those that were asked for."""
        self._part_left = 0
        """Requests that may still take the plan's last widening in this step."""

    def new_chooser(self, most: int) -> Chooser:
        """Returns the chooser of a request whose cycles are at most so wide."""
        menu = max(0, (most - 1).bit_length() - 2)
        if menu >= self._num_menus:
            self._num_menus, self._load = menu + 1, Load()
        drafts = self._acceptance.new_request()
        group = menu * NUM_LEVELS + level_of(drafts.difficulty)
        return Chooser(self, menu, group, most, interval=self._probes.interval, drafts=drafts)

    def ran(self, rows: int, requests: int, ms: float, *, mixed: bool = False) -> None:
        """Takes in the milliseconds of a step without slices of prompts; `mixed`: see `kinds`."""
        if not mixed or self.kinds.whole_from is None:
            self.times.ran(rows, ms, requests)
        elif ms > 0:
            self.kinds.ran(ms / self.times.at(rows, requests))

    def passed(self, rows: int, requests: int, num_forwards: int) -> None:
        """Takes in that forwards ran with about so many rows of so many requests each, beside slices of prompts."""
        self._num_steps += num_forwards
        if rows:
            ms = num_forwards * self.times.at(rows, requests)
            self._hindsight.passed(ms)
            self._probes.passed(ms)

    def plan(
        self, choosers: Sequence[Chooser], other_requests: int = 0, other_rows: int = 0, *, may_be_whole: bool = True
    ) -> None:
        """Plans the widths of all requests. Costs little if nothing has changed.

        Rows of prompts must not be counted: they come once, and would make drafts look cheap when they are dearest.

        Args:
            choosers: of all requests that decode.
            other_requests: number of requests of other modes that decode.
            other_rows: what these run in a step.
            may_be_whole: False if some requests cannot run a draft and its verify as one step.
        """
        if not choosers:
            return
        if may_be_whole != self.kinds.may_be_whole:
            self.kinds.may_be_whole, self._planned = may_be_whole, None
        load = Load(len(choosers), other_requests, other_rows, self.times.version)
        if load != self._load:
            self._look()
            self._take_load(load)
        groups = [chooser.group for chooser in choosers]
        if groups != self._planned:
            self._planned = groups
            self._plan(Counter(groups))
        part = self._found.part
        if part is not None:
            taking = sum(one.group == part.group and one.running >= part.width for one in choosers)
            self._part_left = self._found.num_part - taking

    def _look(self) -> None:
        """Attributes the time that has passed to the load under which it passed."""
        load = self._load
        if load.num_choosers:
            widths = bins_of(self._num_menus - 1)
            self._hindsight.look(widths, lambda width: self.kinds.ms(self.times, load, width, load.num_choosers))

    def _take_load(self, load: Load) -> None:
        if load.version != self._load.version:
            self._costs = {}
        self._load, self._planned = load, None
        if load.num_requests not in self._costs:
            self._costs[load.num_requests] = Costs(self.times, load.num_requests)
        plain, probe = (self.kinds.ms(self.times, load, width, 1) for width in (1, PROBE_WIDTH))
        self._probes.have_load(2 * max(probe - plain, 0.0), plain / load.num_requests)

    def _plan(self, counts: Mapping[int, int]) -> None:
        load, kinds = self._load, self.kinds
        costs, num_requests = self._costs[load.num_requests], load.num_requests
        found = self._groups.best(counts, float(num_requests), load.plain_rows, costs)
        if kinds.whole_from is not None and not load.other_requests:
            plain = Plan(value=num_requests / costs[num_requests])
            plans = [plain, found._replace(value=found.value / kinds.handicap**FAIRNESS)]
            if kinds.may_be_whole and (whole := self._groups.best_from(kinds.whole_from, counts, costs)):
                plans.append(whole)
            found = max(plans, key=lambda plan: plan.value)
        self._found, self.least, self._by_group = found, found.least, {}

    def width_of(self, chooser: Chooser) -> int:
        """Returns the width of the next cycle of a request."""
        if self.before_choice is not None:
            plan, self.before_choice = self.before_choice, None
            plan()
        if chooser.drafts.failed_in_a_row >= STREAK:
            return self._found.least
        part = self._found.part
        if part is not None and part.group == chooser.group and self._part_left > 0:
            self._part_left -= 1
            return part.width
        width = self._by_group.get(chooser.group)
        if width is None:
            width = self._by_group[chooser.group] = self._groups.width_of(chooser.group, self._found)
        return width

    def takes_probe(self) -> bool:
        """Returns True if a request may probe now, which it then does."""
        return self._probes.take(self._could_pay)

    def _could_pay(self) -> bool:
        """Returns True if one request or all would gain, were their drafts right until the answers end."""
        load, kinds = self._load, self.kinds
        if not load.num_choosers:
            return False
        plain = self.times.at(load.plain_rows, load.num_requests)
        bins = bins_of(self._num_menus - 1)
        speeds = speeds_at(0.0, self._acceptance.chances, bins, self._acceptance.end_chance)
        return any(
            (load.num_requests + some * (speed - 1)) / kinds.ms(self.times, load, width, some)
            > _PROBE_GAIN * load.num_requests / plain
            for width, speed in zip(widths_up_to(len(speeds)), speeds, strict=True)
            for some in (1, load.num_choosers)
        )

    def forwards_by_now(self) -> list[float]:
        """Returns the forwards of every width for which there has been time."""
        self._look()
        return list(self._hindsight.forwards)

    def in_hindsight(self, chooser: Chooser, began: Sequence[float]) -> Mapping[int, float]:
        """Returns by width what a request would have got since `began`, had all always had that width."""
        self._look()
        known = self._acceptance
        rates = speeds_at(chooser.drafts.overall, known.chances, bins_of(chooser.menu), known.end_chance)
        rates = rates[: max(1, chooser.widest.bit_length() - 1)]  # the widest of a menu may be wider
        for number, factor in enumerate(self._yields.factors[: len(rates)]):
            rates[number] *= factor
        return self._hindsight.tokens(began, rates)

    def learn(self, chooser: Chooser, width: int, accepted: int, emitted: int, *, ended: bool = False) -> None:
        """Takes in a finished cycle of a request."""
        self._acceptance.learn(chooser.drafts, width, accepted, emitted, ended=ended)
        self._yields.add(chooser.drafts, self._acceptance, bins_of(chooser.menu), ended=ended)
        if ended:
            self._acceptance.ended(chooser.drafts)
        if chooser.probing:
            chooser.interval = self._probes.learn(chooser.interval, emitted)
        chooser.since, chooser.probing = 0, False
        self._num_cycles += 1
        if min(self._num_cycles, self._num_steps) >= _FEW and max(self._num_cycles, self._num_steps) >= _REBUILD:
            self._num_cycles = self._num_steps = 0
            self._acceptance.refresh()
            self._groups.refresh(self._acceptance.chances, self._acceptance.end_chance, self._yields.factors)
            self._planned, self._by_group = None, {}
