"""The ledger file and the figures that follow from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.run_folder.nfe import NfeRecord, add_record, read_nfe_log, read_run_ledger, summarize


def record(**changes: object) -> NfeRecord:
    values: dict[str, object] = {
        "request_id": "r",
        "benchmark": "gsm8k",
        "sample_id": 0,
        "seed": 0,
        "mode": "ar",
        "lora": False,
        "prompt_tokens": 3,
        "completion_tokens": 10,
        "finish_reason": "stop",
        "forwards": {"prefill": 1, "decode": 4},
        "nfe": 4,
        "queue_s": 1.0,
        "total_s": 3.0,
    }
    return NfeRecord.from_json(values | changes)


def test_line_and_back(tmp_path: Path) -> None:
    path = tmp_path / "nfe_log.jsonl"
    path.write_text(record(acceptance_lengths=[3, 1]).to_line())
    assert read_nfe_log(path) == [record(acceptance_lengths=[3, 1])]


def test_widths_stand_in_a_line_only_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "nfe_log.jsonl"
    path.write_text(record(mode="auto", widths={"1": 3, "8": 2}).to_line())
    assert read_nfe_log(path)[0].cost.widths == {"1": 3, "8": 2}
    assert "widths" not in json.loads(record().to_line())
    with pytest.raises(TypeError, match="widths"):
        record(widths={"1": "many"})


def test_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_nfe_log(tmp_path / "none") == []


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "nfe_log.jsonl"
    path.write_text(record().to_line() + record().to_line()[:20])
    assert len(read_nfe_log(path)) == 1


def test_summary_is_a_ratio_of_sums() -> None:
    figures = summarize([record(), record(sample_id=1, completion_tokens=30, nfe=6)])
    assert figures == {
        "average_nfe": 5.0,
        "nfe_count": 2,
        "failed": 0,
        "tpf": 4.0,
        "tpf_total": 4.0,
        "tokens_per_second": 10.0,
    }


def test_a_failed_sample_counts_as_one_without_tokens_and_forwards() -> None:
    failed = record(sample_id=1, error="HTTP 400: x", finish_reason="error")
    alone, both = summarize([record()]), summarize([record(), failed])
    assert (both["nfe_count"], both["failed"], both["average_nfe"]) == (2, 1, 2.0)
    ratios = ("tpf", "tpf_total", "tokens_per_second")
    assert [both[name] for name in ratios] == [alone[name] for name in ratios]


def test_summary_of_nothing_has_no_ratios() -> None:
    assert summarize([]) == {
        "average_nfe": None,
        "nfe_count": 0,
        "failed": 0,
        "tpf": None,
        "tpf_total": None,
        "tokens_per_second": None,
    }


def test_answered_line_wins_over_a_failed_one(tmp_path: Path) -> None:
    for group, line in enumerate([record(error="x"), record(nfe=7), record(error="y")]):
        path = tmp_path / f"nfe_group{group}" / "nfe_log.jsonl"
        path.parent.mkdir()
        path.write_text(line.to_line())
    assert read_run_ledger(tmp_path) == {("gsm8k", 0, 0): record(nfe=7)}


def test_of_two_lines_the_one_with_an_answer_counts() -> None:
    failed = record(error="no worker", finish_reason="error")
    for first, second in ((failed, record()), (record(), failed)):
        ledger = {0: first}
        add_record(ledger, 0, second)
        assert ledger == {0: record()}


def test_of_two_answers_the_first_counts() -> None:
    ledger = {0: record(nfe=1)}
    assert not add_record(ledger, 0, record(nfe=2))
    assert ledger == {0: record(nfe=1)}


def test_a_line_keeps_the_order_of_its_keys() -> None:
    keys = "request_id benchmark sample_id seed mode lora prompt_tokens completion_tokens finish_reason forwards"
    times = "forwards_saved nfe acceptance_lengths queue_s first_token_s total_s error"
    assert list(json.loads(record().to_line())) == f"{keys} {times}".split()


def test_a_line_of_an_earlier_version_has_saved_no_forwards() -> None:
    line = record().to_json()
    del line["forwards_saved"]
    assert NfeRecord.from_json(line).cost.forwards_saved == 0


def test_a_line_without_token_counts_is_refused() -> None:
    line = record().to_json()
    del line["completion_tokens"]
    with pytest.raises(TypeError, match="completion_tokens"):
        NfeRecord.from_json(line)


@pytest.mark.parametrize("line", ["{", "[]", "null", "{}", "[" * 100_000, "\ufffd"])
def test_a_damaged_line_of_a_log_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "nfe_log.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match="line 1 is no record of the ledger"):
        read_nfe_log(path)
