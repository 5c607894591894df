"""What a sweep over loads says, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.pipeline.analysis.loads import FILE_NAME, LoadSweep, Setting, advice, read_loads


def setting(name: str, mode: str, accuracy: float, ratios: dict[int, float]) -> Setting:
    speeds = {load: 100 * load * ratio for load, ratio in ratios.items()}
    return Setting(name=name, mode=mode, accuracy=accuracy, tpf=2.0, tokens_per_s=speeds, against_ar=ratios)


def sweep() -> LoadSweep:
    settings = [
        setting("ar", "ar", 90.0, {1: 1.0, 8: 1.0, 64: 1.0}),
        setting("dlm 32", "dlm", 80.0, {1: 3.0, 8: 1.5, 64: 0.5}),
        setting("auto", "auto", 90.0, {1: 2.5, 8: 1.6, 64: 0.98}),
    ]
    return LoadSweep(model="m", problems=7, machine="2 cores", settings=settings)


def test_the_fastest_is_that_of_the_ratios_and_crossovers_are_where_it_changes() -> None:
    assert sweep().fastest() == {1: "dlm 32", 8: "auto", 64: "ar"}
    assert sweep().fastest(text_of_ar=True) == {1: "auto", 8: "auto", 64: "ar"}
    assert sweep().crossovers == [8, 64]


def test_the_advice_names_a_setting_for_every_load() -> None:
    first, second = sweep().advice.split(" With the text of ar: ")
    assert first == "The fastest by requests at a time: dlm 32 at 1, auto at 8, ar at 64."
    assert second == "The fastest by requests at a time: auto at 1 to 8, ar at 64."
    assert advice({2: "ar"}) == "The fastest by requests at a time: ar at 2."


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    sweep().write(tmp_path / "inside")
    assert read_loads(tmp_path) == ([sweep()], [])
    assert read_loads(tmp_path / "inside", tmp_path) == ([sweep()], [])
    assert read_loads(tmp_path / "nowhere") == ([], [])


GOOD = {"name": "ar", "mode": "ar", "accuracy": 1, "tpf": 1, "tokens_per_s": {"1": 1}, "against_ar": {"1": 1}}
BAD: list[dict[str, object]] = [
    {"accuracy": "x"}, {"accuracy": float("nan")}, {"tpf": None}, {"tokens_per_s": {"x": 1}}, {"tokens_per_s": {}},
    {"tokens_per_s": {"0": 1}}, {"against_ar": {"1": 0}},
]  # fmt: skip


def with_setting(setting: dict[str, object]) -> str:
    return json.dumps({"model": "m", "problems": 1, "machine": "", "settings": [setting]})


def test_the_setting_that_damaged_ones_begin_with_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(with_setting(GOOD))
    assert [len(found) for found in read_loads(tmp_path)] == [1, 0]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"settings": []}', "[" * 10**5, *(with_setting(GOOD | bad) for bad in BAD)],
    ids=range(5 + len(BAD)),
)
def test_a_damaged_file_is_noted(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    sweeps, (note,) = read_loads(tmp_path)
    assert sweeps == [] and FILE_NAME in note and "left out" in note
