"""A runner whose device is as late as it can be: it computes a step only when the host waits for it.

What a step reads from the host must be taken when it is launched, and what it reads from the step before must be there
by the time it is due.
"""

from __future__ import annotations

from collections.abc import Callable

from trimode.workers.decode.chunk import Sampled
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.runner import InFlight, Runner
from trimode.workers.model.batch import Batch
from trimode.workers.sampling.plan import SamplingPlan
from trimode.workers.sampling.sampler import Sampling


class LateSampling(Sampling):
    """The samples of a step that nobody has computed yet."""

    def __init__(self, plan: SamplingPlan, compute: Callable[[], Sampling]) -> None:
        super().__init__(plan, None, None, {})
        self._compute = compute

    def collect(self) -> list[Sampled]:
        real = self._compute()
        self.tokens_R = real.tokens_R
        return real.collect()


class LateRunner(Runner):
    """Computes at the last moment."""

    num_ahead = 0
    """Steps that were launched before the results of the step before them were there."""

    @property
    def asynchronous(self) -> bool:
        return True

    def _compute(self, plan: SamplingPlan, batch: Batch, after: InFlight | None) -> Sampling:
        self.num_ahead += after is not None
        compute = super()._compute
        return LateSampling(plan, lambda: compute(plan, batch, after))


def make_late(engine: Engine) -> LateRunner:
    """Lets the engine run on such a device. Returns its runner."""
    runner = engine.runner
    runner.__class__ = LateRunner
    assert isinstance(runner, LateRunner)
    return runner
