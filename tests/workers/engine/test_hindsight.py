"""What fixed widths would have given, beside what was got."""

from __future__ import annotations

import pytest
from trimode.tests.workers.engine.test_widths import FLAT, Load, drafts
from trimode.workers.engine.hindsight import Hindsight
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widths import Widths


def test_each_width_gives_its_tokens_per_forward_times_the_forwards_that_had_room() -> None:
    hindsight = Hindsight()
    hindsight.passed(10.0)
    hindsight.look(2, float)
    began = list(hindsight.forwards)
    assert began == [10.0, 2.5]
    for ms in (20.0, 20.0):
        hindsight.passed(ms)
    hindsight.look(3, lambda width: 2.0 * width + 2)
    assert hindsight.tokens(began, [1.0, 1.5, 2.0]) == {1: 40 / 4, 4: 1.5 * 40 / 10, 8: 2.0 * 40 / 18}


@pytest.mark.parametrize(("share", "best"), [(0.0, 1), (0.95, 32)])
def test_the_best_width_in_hindsight_is_the_one_that_fits_the_drafts(share: float, best: int) -> None:
    load = Load(Widths(StepTimes(FLAT)), [drafts(share)])
    for _ in range(800):
        load.step()
    ((chooser, cycles),) = load.cycles.items()
    fixed, got = chooser.fixed_tokens, sum(emitted for _, emitted in cycles)
    assert max(fixed, key=lambda width: fixed[width]) == best
    assert max(fixed.values()) == pytest.approx(got, rel=0.15)


def test_a_request_that_never_ran_has_no_fixed_tokens() -> None:
    assert Widths().new_chooser(32).fixed_tokens == {}
