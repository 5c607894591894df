"""Steps that are launched before the results of the step before them are read, so that the device never waits.

A step's chunks may depend on the step before by its sampled tokens only; these stay on the device. Where more is
unknown, the step waits for the results as if there were no device.
"""

from __future__ import annotations

import dataclasses

from trimode.core.errors import GenerationError
from trimode.workers.boundary import one_request
from trimode.workers.engine.counters import EngineCounters
from trimode.workers.engine.runner import InFlight, Runner, StepResult
from trimode.workers.engine.scheduler import ScheduledChunk, Scheduler, Sequence


class _Launched:
    """A step that the device has been given, and the states that its chunks come from."""

    def __init__(self, in_flight: InFlight) -> None:
        self.in_flight = in_flight
        self._states = [item.sequence.state for item in in_flight.scheduled]

    def live(self, running: list[Sequence]) -> list[bool]:
        """Returns, per chunk, True if its request still runs and has not started again since."""
        still = set(running)
        pairs = zip(self.in_flight.scheduled, self._states, strict=True)
        return [item.sequence in still and item.sequence.state is state for item, state in pairs]


class StepsAhead:
    """Runs the steps of an engine on a device that works beside the host."""

    def __init__(self, scheduler: Scheduler, runner: Runner, counters: EngineCounters) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._counters = counters
        self._next: _Launched | None = None

    @property
    def pending(self) -> bool:
        """True if the next step is launched already."""
        return self._next is not None

    def step(self, scheduled: list[ScheduledChunk]) -> StepResult:
        """Waits for a step and returns its results. Before that, launches the step after it if that is known.

        Rows of requests that have ended since their step was launched are dropped, and counted as dropped.

        Args:
            scheduled: what runs, unless the step is pending.

        Raises:
            WorkerError: the device is lost.
            Exception: whatever else the step raises. `forget` must follow.
        """
        scheduler, launched = self._scheduler, self._next
        if launched is None:
            launched = _Launched(self._runner.launch(scheduled))
        self._next = self._launch_after(launched)
        result = self._runner.collect(launched.in_flight)
        scheduler.hold([] if self._next is None else [item.sequence for item in self._next.in_flight.scheduled])
        live = launched.live(scheduler.running)
        self._counters.dropped_rows += live.count(False)
        samples = [sample for sample, alive in zip(result.samples, live, strict=True) if alive]
        following = [sampled for sampled, alive in zip(result.following, live, strict=False) if alive]
        return dataclasses.replace(result, samples=samples, following=following)

    def forget(self) -> None:
        """Drops what is pending, after a step that raised. WorkerError if the device does not compute any more."""
        self._next = None
        self._runner.recover()
        self._scheduler.hold(())

    def _launch_after(self, launched: _Launched) -> _Launched | None:
        """Launches the step after one that still runs. Returns None if it is not known yet, or cannot be launched."""
        if not launched.in_flight.may_be_followed:
            return None
        live = launched.live(self._scheduler.running)
        items = [item for item, alive in zip(launched.in_flight.scheduled, live, strict=True) if alive]
        ahead = self._scheduler.following(items)
        if not ahead:
            return None
        try:
            with one_request("the forward"):
                return _Launched(self._runner.launch(ahead, launched.in_flight))
        except GenerationError:
            return None  # it runs again when it is due, and the request at fault is found
