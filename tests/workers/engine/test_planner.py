"""What the engine tells the choice of widths, and whom it asks for."""

from __future__ import annotations

import dataclasses

import pytest
from trimode.tests.fakes.forward import CONTEXT, new_state
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine.planner import WidthPlanner
from trimode.workers.engine.scheduler import ScheduledChunk, Sequence
from trimode.workers.engine.widths import Widths


class Noted(Widths):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.planned: list[tuple[int, int, int]] = []
        self.whole: list[bool] = []
        self.mixed: list[bool] = []
        self.steps: list[tuple[int, int, float]] = []
        self.forwards: list[tuple[int, int, int]] = []

    def plan(
        self, choosers: object, other_requests: int = 0, other_rows: int = 0, *, may_be_whole: bool = True
    ) -> None:
        assert isinstance(choosers, list)
        self.planned.append((len(choosers), other_requests, other_rows))
        self.whole.append(may_be_whole)

    def ran(self, rows: int, requests: int, ms: float, *, mixed: bool = False) -> None:
        self.steps.append((rows, requests, ms))
        self.mixed.append(mixed)

    def passed(self, rows: int, requests: int, num_forwards: int) -> None:
        self.forwards.append((rows, requests, num_forwards))


def request(planner: WidthPlanner, mode: str, *output: int) -> Sequence:
    state = new_state(mode)
    state.output = list(output)
    state.chooser = planner.new_chooser(4) if mode == "auto" else None
    return Sequence(mode, state)


def choose(planner: WidthPlanner, running: list[Sequence]) -> None:
    """What a step in which all choose does."""
    planner.before_step(running)
    for each in running:
        if each.state.chooser is not None:
            each.state.chooser.choose(4)


def item(sequence: Sequence, kind: str, rows: int) -> ScheduledChunk:
    chunk = Chunk(kind, [1] * rows, 0, causal=True, keep_kv=True, rows=(0,), purpose="decode")
    return ScheduledChunk(sequence, chunk)


def test_requests_that_decode_are_planned_beside_what_others_ran() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    running = [request(planner, "auto", 5), request(planner, "auto"), request(planner, "dlm", 5)]
    running[1].state.prompt_ids = [1] * (CONTEXT.prefill_slice + 1)
    choose(planner, running)
    ran = [item(running[0], "draft", 4), item(running[2], "denoise", 8)]
    planner.after_step(ran, step_s=0.006, num_forwards=2)
    choose(planner, running)
    assert widths.planned == [(1, 1, 1), (1, 1, 8)]
    assert widths.steps == [(12, 2, 3.0)]
    assert widths.forwards == [(12, 2, 2)]


@pytest.mark.parametrize(
    ("kinds", "num_forwards", "mixed"),
    [
        ([("decode", 1), ("decode", 1)], 1, False),
        ([("draft", 8), ("draft", 16)], 2, False),
        ([("draft", 8), ("decode", 1)], 1, True),
        ([("verify", 4)], 1, True),
    ],
)
def test_steps_of_ar_and_whole_cycles_are_told_from_mixed_ones(
    kinds: list[tuple[str, int]], num_forwards: int, mixed: bool
) -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    running = request(planner, "auto", 5)
    planner.after_step([item(running, *kind) for kind in kinds], step_s=0.004, num_forwards=num_forwards)
    assert widths.mixed == [mixed]


def test_a_sampled_request_keeps_drafts_and_verifies_from_being_one_step() -> None:
    widths = Noted()
    widths.kinds.whole_from = 8
    planner = WidthPlanner(widths)
    running = [request(planner, "auto", 5), request(planner, "auto", 5)]
    choose(planner, running)
    planner.after_step([item(running[0], "decode", 1)], step_s=0.006, num_forwards=1)
    running[1].state.params = dataclasses.replace(running[1].state.params, temperature=0.5)
    choose(planner, running)
    assert widths.whole == [True, False]


def test_requests_of_other_modes_that_have_ended_are_not_planned_beside() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    running = [request(planner, "auto", 5), request(planner, "dlm", 5), request(planner, "dlm", 5)]
    planner.after_step([item(one, "denoise", 8) for one in running[1:]], step_s=0.006, num_forwards=1)
    choose(planner, running[:2])
    choose(planner, running[:1])
    assert widths.planned == [(1, 1, 8), (1, 0, 0)]


def test_requests_that_come_at_once_are_planned_together() -> None:
    """Their prompts are read in several steps. Those that decode first must not draft as if they were alone."""
    widths = Noted()
    planner = WidthPlanner(widths)
    choose(planner, [request(planner, "auto", 5), *(request(planner, "auto") for _ in range(15))])
    assert widths.planned == [(16, 0, 0)]


def test_a_plan_that_nobody_asked_for_is_made_for_those_that_run_when_somebody_does() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    three = [request(planner, "auto", 5) for _ in range(3)]
    choose(planner, three)
    planner.before_step([])  # all were cancelled
    choose(planner, three)
    assert widths.planned == [(3, 0, 0), (3, 0, 0)]


def test_nothing_is_planned_in_a_step_in_which_nobody_chooses() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    planner.before_step([request(planner, "auto", 5)])
    assert widths.planned == []


def test_steps_with_a_prompt_say_nothing_of_the_others() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    running = [request(planner, "auto", 5)]
    planner.after_step([item(running[0], "verify", 4), item(running[0], "prefill", 90)], step_s=1.0, num_forwards=1)
    for _ in range(3):
        planner.after_step([], step_s=1.0, num_forwards=1)
    assert widths.steps == []
    assert widths.forwards == [(4, 1, 1), (0, 0, 3)]


def test_without_a_request_that_has_a_choice_nothing_is_done() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    running = [request(planner, "ar", 5)]
    choose(planner, running)
    planner.after_step([item(running[0], "decode", 1)], step_s=1.0, num_forwards=1)
    assert (widths.planned, widths.steps) == ([], [])
    assert CONTEXT.new_chooser is None


def test_where_every_step_has_prompts_their_times_have_to_do() -> None:
    widths = Noted()
    planner = WidthPlanner(widths)
    running = [request(planner, "auto", 5)]
    both = [item(running[0], "verify", 8), item(running[0], "prefill", 3)]
    for _ in range(30):  # every third is looked at
        planner.after_step(both, step_s=0.004, num_forwards=1)
    assert widths.steps == []
    for _ in range(3):
        planner.after_step(both, step_s=0.004, num_forwards=1)
    assert widths.steps == [(11, 2, 4.0)]
    for _ in range(3):
        planner.after_step([item(running[0], "verify", 8)], step_s=0.003, num_forwards=1)
    for _ in range(3):
        planner.after_step(both, step_s=0.004, num_forwards=1)
    assert widths.steps[1:] == [(8, 1, 3.0)]
