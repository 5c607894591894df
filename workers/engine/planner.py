"""Between the engine and the choice of widths: who is asked for before a step, and what the step said."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

from trimode.workers.decode.context import WidthChooser
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.engine.widths import Chooser, Widths

_STRIDE = 3
"""Every third step is looked at and planned for, to save time: an odd number, because drafts and verifies often take
turns."""
_CHANGE = 8
"""Where the number of requests changes by more than this part of it, a plan is due at once."""
_PATIENCE = 10
"""Steps with slices of prompts that say nothing of the time of others. If more follow, they have to do."""


class WidthPlanner:
    """Plans the widths of an engine's requests. Costs nothing as long as no request has a choice."""

    def __init__(self, widths: Widths | None = None) -> None:
        self.widths = widths or Widths()
        self._used = False
        self._num_steps = self._since_pure = 0
        """All steps; and those that were looked at since the last one without a slice of a prompt."""
        self._num_forwards = 0
        """Since the last step that was looked at."""
        self._num_planned = 0
        """Running requests at the last plan."""
        self._other_rows = 1.0
        """Rows of a step of a request in another mode, the mean when one was last seen."""

    def new_chooser(self, most: int) -> WidthChooser:
        """Returns the chooser of a request whose cycles are at most so wide."""
        self._used = True
        return self.widths.new_chooser(most)

    def before_step(self, running: Sequence[Request]) -> None:
        """Lets the widths of the running requests be planned, if one of them has to choose in this step."""
        if not self._used:
            return
        change = abs(len(running) - self._num_planned)
        due = self._num_steps % _STRIDE == 1 or _CHANGE * change > self._num_planned
        if due or self.widths.before_choice is not None:  # the requests of an earlier step may have ended since
            self.widths.before_choice = functools.partial(self._plan, running)

    def _plan(self, running: Sequence[Request]) -> None:
        """Plans the widths. Requests that will read their prompts for more than a step are left out."""
        self._num_planned = len(running)
        choosers = [s.state.chooser for s in running if s.state.chooser is not None and _decodes_soon(s.state)]
        told_apart = self.widths.kinds.whole_from is not None
        greedy = told_apart and all(s.state.params.temperature <= 0 for s in running)
        others = sum(s.state.chooser is None and _decodes_soon(s.state) for s in running)
        rows = round(others * self._other_rows)
        self.widths.plan(cast("list[Chooser]", choosers), others, rows, may_be_whole=greedy)

    def after_step(self, ran: Sequence[ScheduledChunk], *, step_s: float, num_forwards: int) -> None:
        """Notes what a step ran and how long it took. Times of steps with prompts count only where all have some."""
        if not self._used:
            return
        self._num_steps += 1
        self._num_forwards += num_forwards
        if self._num_steps % _STRIDE != 1:
            return
        rows = decoded = num_decoding = 0
        for item in ran:
            size = len(item.chunk.token_ids)
            rows += size
            if item.chunk.kind != "prefill":
                decoded += size
                num_decoding += 1
        self.widths.passed(decoded, num_decoding, self._num_forwards)
        self._num_forwards = 0
        if num_decoding:
            contexts = sum(item.chunk.position for item in ran if item.chunk.kind != "prefill")
            self.widths.times.have_context(contexts / num_decoding)
        if num_decoding == len(ran):
            self._since_pure = 0
            others = [len(item.chunk.token_ids) for item in ran if item.sequence.state.chooser is None]
            if others:
                self._other_rows = sum(others) / len(others)
        else:
            self._since_pure += 1
        if 0 < rows <= 2 * decoded and not 0 < self._since_pure <= _PATIENCE:
            mixed = num_forwards < 2 and rows > len(ran)
            self.widths.ran(rows, len(ran), 1000 * step_s / max(1, num_forwards), mixed=mixed)


def _decodes_soon(state: DecodeState) -> bool:
    """Returns True if a request decodes, or reads the last slice of its prompt in the next step.

    Many requests may come at once. Were the first ones that decode planned as if they were alone, they would draft.
    """
    return bool(state.output) or state.cached + state.context.prefill_slice >= len(state.prompt_ids)
