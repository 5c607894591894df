"""Between the engine and the choice of widths: who is asked for before a step, and what the step said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trimode.workers.decode.context import WidthChooser
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.engine.widths import Chooser, Widths

_STRIDE = 3
"""Every third step is looked at, to save time: an odd number, because drafts and verifies often take turns."""
_PATIENCE = 10
"""Steps with slices of prompts that say nothing of the time of others. If more follow, they have to do."""


class WidthPlanner:
    """Plans the widths of an engine's requests. Costs nothing as long as no request has a choice."""

    def __init__(self, widths: Widths | None = None) -> None:
        self.widths = widths or Widths()
        self._used = False
        self._num_steps = self._since_pure = 0
        """All steps; and those that were looked at since the last one without a slice of a prompt."""
        self._other_requests = 0
        self._other_rows = 0

    def new_chooser(self, most: int) -> WidthChooser:
        """Returns the chooser of a request whose cycles are at most so wide."""
        self._used = True
        return self.widths.new_chooser(most)

    def before_step(self, running: Iterable[Request]) -> None:
        """Plans the next cycles of the running requests. Those that still read their prompt are left out."""
        if self._used:
            choosers = [s.state.chooser for s in running if s.state.chooser is not None and s.state.output]
            found = [chooser for chooser in choosers if isinstance(chooser, Chooser)]
            if not all(chooser.running for chooser in found):
                self.widths.plan(found, self._other_requests, self._other_rows)

    def after_step(self, ran: Sequence[ScheduledChunk], *, step_s: float, num_forwards: int) -> None:
        """Notes what a step ran and how long it took. Times of steps with prompts count only where all have some."""
        if not self._used:
            return
        decoding = [item for item in ran if item.chunk.kind != "prefill"]
        decoded = sum(len(item.chunk.token_ids) for item in decoding)
        self.widths.passed(decoded, len(decoding), num_forwards)
        if len(decoding) == len(ran):
            others = [len(item.chunk.token_ids) for item in ran if item.sequence.state.chooser is None]
            self._other_requests, self._other_rows = len(others), sum(others)
        self._num_steps += 1
        if self._num_steps % _STRIDE != 1:
            return
        rows = sum(len(item.chunk.token_ids) for item in ran)
        self._since_pure = 0 if len(decoding) == len(ran) else self._since_pure + 1
        if rows > 2 * decoded or 0 < self._since_pure <= _PATIENCE:
            return
        self.widths.ran(rows, len(ran), 1000 * step_s / max(1, num_forwards))
