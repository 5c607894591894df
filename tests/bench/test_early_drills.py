"""Early kills: records are kept as they are, and the table counts what was not clean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trimode.bench.drills.compare import Difference
from trimode.bench.drills.drill import Record
from trimode.bench.drills.early import Hit, as_markdown, is_clean, read_hits, write_hit

CLEAN = Difference(lost=0, doubled=0, wrong_verdicts=0, other_rows=0, left_files=())


def hit(found: Difference | None = CLEAN, *, at_s: float = 0.2, typed: int = 0) -> Hit:
    record = Record(kind="batch", mode="ar", seed=1, found=found, typed=["the same command"] * typed)
    return Hit(program="batch", signal_name="KILL", at_s=at_s, way="requeued", record=record)


def test_drills_are_read_as_they_were_written(tmp_path: Path) -> None:
    hits = [hit(), hit(None, at_s=0.5)]
    for item in hits:
        write_hit(tmp_path / "hits.jsonl", item)
    assert read_hits(tmp_path / "hits.jsonl") == hits
    assert [path.name for path in tmp_path.iterdir()] == ["hits.jsonl"]


@pytest.mark.parametrize(
    ("item", "clean"),
    [
        (hit(), True),
        (hit(None), False),
        (hit(typed=1), False),
        (hit(replace(CLEAN, lost=1)), False),
        (hit(replace(CLEAN, wrong_verdicts=1)), False),
    ],
)
def test_what_is_clean(item: Hit, clean: bool) -> None:
    assert is_clean(item) is clean


def test_a_line_for_each_moment_and_one_for_all() -> None:
    table = as_markdown([hit(), hit(replace(CLEAN, doubled=2)), hit(None, at_s=0.5)]).splitlines()
    assert table[2:] == [
        "| batch, SIGKILL | 0.2 | 2 | 0 | 2 | 0 | 0 | 0 | 0 | requeued 2 |",
        "| batch, SIGKILL | 0.5 | 1 | 0 | 0 | 0 | 1 | 0 | 0 | requeued 1 |",
        "| all | | 3 | 0 | 2 | 0 | 1 | 0 | 0 | requeued 3 |",
    ]
