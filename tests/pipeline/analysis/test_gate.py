"""Gates: the grammar, the three verdicts, the exit statuses."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.analysis.gate import EXIT_STATUS, Gate, Verdict, judge, overall, parse_gate
from trimode.pipeline.analysis.statistics import Interval


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("linear_spec >= ar - 1.0", Gate("linear_spec", "ar", -1.0)),
        ("linear_spec+lora>=ar-2", Gate("linear_spec+lora", "ar", -2.0)),
        ("dlm >= ar", Gate("dlm", "ar", 0.0)),
        ("a >= b + 0.5", Gate("a", "b", 0.5)),
        ("eval_1f2e >= my-model.v2/hf_base/eval_3d - 1", Gate("eval_1f2e", "my-model.v2/hf_base/eval_3d", -1.0)),
    ],
)
def test_gates_are_read(text: str, gate: Gate) -> None:
    assert parse_gate(text) == gate


@pytest.mark.parametrize("text", ["", "ar", "ar > dlm", "ar >= dlm - x", "ar >= dlm - 1.0 points", "ar <= dlm"])
def test_other_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME >= NAME"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.5, 0.5, Verdict.PASS),
        (-1.0, 3.0, Verdict.PASS),
        (-3.0, 0.5, Verdict.INCONCLUSIVE),
        (-3.0, -1.0, Verdict.INCONCLUSIVE),
        (-5.0, -1.1, Verdict.REGRESS),
    ],
)
def test_the_whole_interval_decides(low: float, high: float, verdict: Verdict) -> None:
    assert judge(Interval(low, high), -1.0) is verdict


def test_one_benchmark_that_regresses_fails_a_pool_that_passes() -> None:
    assert overall(Verdict.PASS, [Verdict.PASS, Verdict.REGRESS]) is Verdict.REGRESS
    assert overall(Verdict.PASS, [Verdict.INCONCLUSIVE]) is Verdict.PASS


def test_exit_statuses_leave_2_to_the_users_errors() -> None:
    assert {v.value: EXIT_STATUS[v] for v in Verdict} == {"PASS": 0, "REGRESS": 1, "INCONCLUSIVE": 3}
