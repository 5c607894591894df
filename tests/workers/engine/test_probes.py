"""What probes may cost, and how long a request waits for the next one."""

from __future__ import annotations

import pytest
from trimode.workers.engine.probes import FIRST_PROBE, LAST_PROBE, PROBE_WIDTH, Probes


def yes() -> bool:
    return True


def taken(probes: Probes, most: int = 1000) -> int:
    """How many probes may run now, one after the other."""
    return next((number for number in range(most) if not probes.take(yes)), most)


def spent(cost: float, token_ms: float = 1.0) -> Probes:
    """Probes of this cost that have used up what was put aside at first."""
    probes = Probes()
    probes.have_load(cost, token_ms)
    taken(probes)
    return probes


def test_before_a_load_is_known_all_may_probe() -> None:
    assert taken(Probes()) == 1000


def test_a_batch_begins_with_time_for_a_few_probes() -> None:
    probes = Probes()
    probes.have_load(2.0, 1.0)
    assert taken(probes) == 16


def test_probes_take_one_percent_of_the_time() -> None:
    probes = spent(2.0)
    found = 0
    for _ in range(1000):
        probes.passed(10.0)
        found += probes.take(yes)
    assert found == pytest.approx(0.01 * 10_000 / 2, abs=1)


def test_time_in_which_nobody_probes_is_put_aside_for_a_few_only() -> None:
    probes = spent(2.0)
    probes.passed(1e6)
    probes.have_load(2.0, 1.0)
    assert taken(probes) == 16


def test_what_is_put_aside_is_cut_to_the_probes_of_the_present_load() -> None:
    probes = Probes()
    probes.have_load(2.0, 1.0)
    probes.have_load(0.25, 1.0)
    assert taken(probes) == 16
    probes.have_load(2.0, 1.0)
    assert taken(probes) == 0


def test_just_enough_time_is_enough_and_probes_that_cost_nothing_always_run() -> None:
    probes = spent(1.0)
    probes.passed(99.0)
    assert not probes.take(yes)
    probes.passed(1.0)
    assert taken(probes) == 1
    probes.have_load(0.0, 1.0)
    assert taken(probes) == 1000


def test_whether_drafts_could_pay_is_asked_once_per_load_and_a_refusal_costs_nothing() -> None:
    asked: list[bool] = []

    def could_pay() -> bool:
        asked.append(True)
        return len(asked) > 1

    probes = Probes()
    probes.have_load(1.0, 1.0)
    assert not any(probes.take(could_pay) for _ in range(20))
    assert len(asked) == 1
    probes.have_load(1.0, 1.0)
    assert sum(probes.take(could_pay) for _ in range(20)) == 16
    assert len(asked) == 2


def test_a_probe_that_gives_more_than_two_steps_of_ar_pays_for_later_ones() -> None:
    probes = spent(2.0, token_ms=1.0)
    probes.learn(FIRST_PROBE, PROBE_WIDTH)  # two tokens more than two steps of ar
    assert taken(probes) == 1
    probes.learn(FIRST_PROBE, 2)
    probes.learn(FIRST_PROBE, 1)
    assert taken(probes) == 0


def test_a_request_waits_twice_as_long_after_each_failure_up_to_a_limit() -> None:
    probes, interval, found = Probes(), float(FIRST_PROBE), list[float]()
    for emitted in (1, 2, 1, 1, 1):
        interval = probes.learn(interval, emitted)
        found.append(interval)
    assert found == [32, 64, 128, LAST_PROBE, LAST_PROBE]
    assert probes.learn(interval, 3) == FIRST_PROBE


def test_new_requests_wait_longer_the_more_probes_have_failed() -> None:
    probes = Probes()
    assert probes.interval == FIRST_PROBE
    for _ in range(3):
        probes.learn(LAST_PROBE, 1)
    longer = probes.interval
    assert 2 * FIRST_PROBE < longer < LAST_PROBE
    for _ in range(20):
        probes.learn(FIRST_PROBE, 2)
    assert probes.interval == LAST_PROBE
    probes.learn(LAST_PROBE, 4)
    assert FIRST_PROBE < probes.interval < LAST_PROBE
    for _ in range(20):
        probes.learn(LAST_PROBE, 3)
    assert probes.interval == FIRST_PROBE
