"""A goal is met, missed or not measured."""

from __future__ import annotations

from trimode.bench.gpu.goals import H200_COPY, MODEL, Judged, judge
from trimode.bench.gpu.records import Condition, Findings, Record
from trimode.bench.gpu.report import goal_row


def judged(*records: Record) -> dict[str, Judged]:
    return {goal.goal: goal for goal in judge(Findings(list(records), []))}


def step(value: float, tokens: int = 1, streams: int = 1, share: float | None = None, **variant: Condition) -> Record:
    conditions = MODEL | variant | {"streams": streams, "tokens": tokens}
    return Record(name="step", value=value, unit="ms", share=share, conditions=conditions)


def test_without_findings_nothing_is_met() -> None:
    assert {goal.met for goal in judged().values()} == {None}


def test_ratios_to_the_ar_step() -> None:
    goals = judged(
        step(4.0, share=0.78), step(4.5, tokens=32), step(2.5, scheme="fp8"), step(2.0, scheme="w4a16"),
        step(4.8, batch_invariant=True),
    )  # fmt: skip
    assert goals["32-token step / AR step"].got == 4.5 / 4.0
    assert goals["32-token step / AR step"].met
    assert goals["AR step, share of the measured read rate"].met
    assert goals["the same, next goal"].met is False
    assert goals["fp8, times as fast as the bf16 AR step"].met
    assert goals["w4a16, times as fast as the bf16 AR step"].met is False
    assert goals["batch invariance, cost of the AR step"].met is False


def test_rates_of_an_h200_are_scaled_by_the_copy_rate() -> None:
    copy = Record(name="copy rate", value=H200_COPY / 2, unit="byte/s")
    rate = Record(
        name="tokens/s",
        value=340.0,
        unit="tokens/s",
        share=0.7,
        conditions=MODEL | {"mode": "linear_spec", "streams": 1},
    )
    goals = judged(copy, rate)
    goal = goals["linear_spec at 6.82 accepted, tokens/s at one stream (670 on an H200, scaled)"]
    assert (goal.target, goal.met) == (335.0, True)


def test_the_worst_condition_decides() -> None:
    def attention(rows: int, keys: int, ratio: float) -> Record:
        conditions: dict[str, Condition] = {"rows of": "decode", "streams": rows, "queries": 1, "keys": keys}
        return Record(name="paged_attention", value=1.0, unit="us", share=0.9, ratio=ratio, conditions=conditions)

    goals = judged(attention(1, 512, 1.2), attention(8, 32768, 0.9))
    slowest = goals["paged_attention beside SDPA, times as fast"]
    assert (slowest.got, slowest.met) == (0.9, False)
    assert slowest.where == "rows of decode, streams 8, queries 1, keys 32768"
    assert goals["paged_attention at 32k keys, share of its bound"].got == 0.9


def test_a_dry_run_judges_nothing() -> None:
    goal = Judged(goal="g", target=1.0, got=2.0)
    assert goal_row(goal, dry=False)[-1] == "met"
    assert goal_row(goal, dry=True)[-1] == "not judged: dry run"
    assert goal_row(Judged(goal="g", target=1.0, got=None), dry=False)[-1] == "not measured"
