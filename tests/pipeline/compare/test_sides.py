"""Which runs are compared with which, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode
from trimode.pipeline.analysis.gate import parse_gate
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.compare.sides import find_run, folder_name, select_sides


def run(mode: str, lora: bool = False, folder: str = "one") -> Run:
    path = Path("/runs", folder)
    return Run(path, Mode(mode), lora, manifest={}, jobs=[], tasks={}, state="completed", notes=[])


AR, DLM, SPEC, ADAPTED = run("ar"), run("dlm", folder="dlm1"), run("linear_spec"), run("linear_spec", lora=True)


def names(a: list[Run], b: list[Run] | None = None, modes: list[str] | None = None, gate: str = "") -> list[str]:
    sides = select_sides(a, b, modes, parse_gate(gate) if gate else None)
    return [f"{side.name_a} - {side.name_b}" for side in sides]


def test_one_folder_compares_every_mode_with_ar() -> None:
    assert names([AR, DLM, ADAPTED]) == ["dlm - ar", "linear_spec+lora - ar"]


def test_modes_and_gate_name_the_pair() -> None:
    assert names([AR, DLM, SPEC], modes=["dlm", "linear_spec"]) == ["dlm - linear_spec"]
    assert names([AR, DLM, SPEC], gate="dlm >= linear_spec") == ["dlm - linear_spec"]


def test_two_folders_are_paired_by_label() -> None:
    assert names([AR, DLM], [SPEC, DLM, AR]) == ["a: ar - b: ar", "a: dlm - b: dlm"]


def test_two_folders_with_one_run_each_need_no_common_label() -> None:
    assert names([AR], [DLM]) == ["a: ar - b: dlm"]


def test_a_gate_on_a_and_b_does_not_choose_modes() -> None:
    assert names([AR, DLM], [AR, DLM], gate="a >= b") == ["a: ar - b: ar", "a: dlm - b: dlm"]


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([DLM, SPEC], None, "no run is called 'ar'"),
        ([AR], None, "the folder holds one run"),
        ([AR, DLM], [SPEC], "no mode is in both folders: A holds ar, dlm; B holds linear_spec"),
    ],
)
def test_what_has_no_pair_is_refused(a: list[Run], b: list[Run] | None, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        select_sides(a, b, None, None)


def test_a_label_comes_before_a_mode() -> None:
    assert find_run([SPEC, ADAPTED], "linear_spec") is SPEC
    assert find_run([AR, ADAPTED], "linear_spec") is ADAPTED


def test_a_name_of_two_runs_is_refused_with_both_places() -> None:
    with pytest.raises(ConfigError, match=r"2 runs are called 'ar'; name one as here \(--modes A B\)") as error:
        find_run([AR, run("ar", folder="two")], "ar")
    assert "\n  ar (one), in one: /runs/one\n  ar (two), in two: /runs/two" in str(error.value)


def test_a_folder_names_a_run() -> None:
    two, three = run("ar", folder="exp/hf_base/two"), run("ar", folder="other/hf_base/two")
    assert find_run([AR, two], "two") is two
    assert find_run([AR, two, three], "other/hf_base/two") is three
    assert find_run([AR, two, three], "/runs/exp/hf_base/two") is two
    assert find_run([AR, two, three], "exp") is two
    assert [folder_name(each, [AR, two, three]) for each in (AR, two)] == ["one", "exp/hf_base/two"]
    assert find_run([AR, run("ar", folder="two")], "ar (two)").path.name == "two"
    with pytest.raises(ConfigError, match="2 runs are called 'two'"):
        find_run([AR, two, three], "two")
    assert names([AR, two], modes=["two", "one"]) == ["two - one"]


def test_two_runs_of_one_mode_against_ar_keep_apart() -> None:
    assert names([AR, DLM, run("dlm", folder="two"), SPEC]) == [
        "dlm (dlm1) - ar",
        "dlm (two) - ar",
        "linear_spec - ar",
    ]
