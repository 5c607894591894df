"""Rows from prepared files, raw files and the repository."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.data import data_root, load, load_rows
from trimode.tests.goldens import DATA, FULL, needs_full

PREPARED = FULL / "prepared_heads"
DOWNLOADED = ("gsm8k", "math-500", "aime24", "aime25", "human-eval", "mbpp", "mmlu", "ifeval")


def _toy(name: str = "gsm8k", num_samples: int = 2, source: str = "download") -> Benchmark:
    return Benchmark(
        name=name,
        prompt_config="toy",
        prompt="{problem}",
        num_samples=num_samples,
        scorer="math",
        metric="symbolic_correct",
        source=source,
    )


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@needs_full
@pytest.mark.parametrize("name", DOWNLOADED)
def test_raw_files_convert_to_exactly_what_nemo_skills_prepares(name: str) -> None:
    digests = dict(reversed(line.split()) for line in (PREPARED / "sha256_full.txt").read_text().splitlines())
    rows = load_rows(load_benchmark(name), DATA)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == digests[f"{name}/test.jsonl"]


@needs_full
@pytest.mark.parametrize("name", [*DOWNLOADED, "mmlu-pro"])
def test_prepared_files_are_read_as_they_are(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = PREPARED / f"{name}.jsonl"
    (tmp_path / name).mkdir()
    (tmp_path / name / "test.jsonl").write_bytes(head.read_bytes())
    rows = load_rows(load_benchmark(name), tmp_path)
    assert rows == [json.loads(line) for line in head.read_text(encoding="utf-8").splitlines()]
    assert f"5 rows; the full {name} has" in caplog.text


def test_a_full_split_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_rows(tmp_path / "gsm8k" / "test.jsonl", [{"problem": "a"}, {"problem": "b"}])
    assert len(load_rows(_toy(), tmp_path)) == 2
    assert not caplog.records


def test_the_prepared_file_wins_over_the_raw_one(tmp_path: Path) -> None:
    _write_rows(tmp_path / "gsm8k" / "test.jsonl", [{"problem": "prepared"}])
    _write_rows(tmp_path / "gsm8k" / "test_original.jsonl", [{"question": "raw", "answer": "#### 1"}])
    assert load_rows(_toy(num_samples=1), tmp_path) == [{"problem": "prepared"}]


def test_a_split_of_another_name_is_found_under_its_own(tmp_path: Path) -> None:
    row = {"problem": "p"}
    _write_rows(tmp_path / "gpqa" / "diamond.jsonl", [row] * 198)
    assert load_rows(load_benchmark("gpqa"), tmp_path) == [row] * 198


def test_the_pinned_version_wins_over_a_newer_one(tmp_path: Path) -> None:
    for version in ("v0.1.9", "v0.2.0"):
        path = tmp_path / "human-eval" / f"HumanEvalPlus-{version}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(json.dumps({"prompt": f"def f():  # {version}\n    pass", "base_input": [1], "plus_input": []}))
    (row,) = load_rows(load_benchmark("human-eval"), tmp_path)
    assert row == {"prompt": "def f():  # v0.1.9\n    pass", "question": "def f():  # v0.1.9\n\tpass"}


def test_a_file_cut_short_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k" / "test.jsonl"
    path.parent.mkdir()
    path.write_text('{"problem": "a"}\n{"prob', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"test\.jsonl: damaged or cut short near line 2"):
        load_rows(_toy(), tmp_path)


def test_a_gzip_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mbpp" / "MbppPlus-v0.2.0.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"prompt": "%s"}\n' % (b"0123456789" * 999))[:-9])
    with pytest.raises(ConfigError, match="damaged or cut short"):
        load_rows(load_benchmark("mbpp"), tmp_path)


def test_a_raw_file_under_a_prepared_name_is_refused_with_the_right_name(tmp_path: Path) -> None:
    _write_rows(tmp_path / "gsm8k" / "test.jsonl", [{"question": "q", "answer": "#### 1"}])
    with pytest.raises(ConfigError, match=r"no field problem; it has: question, answer.*test_original\.jsonl"):
        load_rows(_toy(), tmp_path)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    _write_rows(tmp_path / "gsm8k" / "test.jsonl", [])
    with pytest.raises(ConfigError, match="holds no rows"):
        load_rows(_toy(), tmp_path)


def test_missing_data_names_both_ways_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rows(load_benchmark("math-500"), tmp_path)
    assert f"prepare math-500 --data-dir {tmp_path}" in str(caught.value)
    assert "--data-dir (or TRIMODE_DATA_DIR)" in str(caught.value)
    assert "test_original.jsonl" in str(caught.value)


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path: Path) -> None:
    rows = [{"problem": "one\u2028two"}, {"problem": "b"}]
    path = tmp_path / "gsm8k" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert load_rows(_toy(), tmp_path) == rows


def test_bundled_rows_do_not_ask_for_a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BUNDLED_DIR", tmp_path)
    _write_rows(tmp_path / "toy" / "test.jsonl", [{"problem": "a"}, {"problem": "b"}])
    assert len(load_rows(_toy("toy", source="bundled"), None)) == 2


def test_bundled_rows_that_are_missing_name_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BUNDLED_DIR", tmp_path)
    with pytest.raises(ConfigError, match="comes with the repository"):
        load_rows(_toy("toy", source="bundled"), None)


def test_the_data_folder_is_the_given_one_then_the_environments_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMODE_DATA_DIR", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root(tmp_path / "given") == tmp_path / "given"
    assert data_root(None) == tmp_path / "env"
    monkeypatch.delenv("TRIMODE_DATA_DIR")
    assert data_root(None) == tmp_path / "cache" / "trimode" / "data"


def test_a_data_folder_counts_for_bundled_benchmarks_too(tmp_path: Path) -> None:
    benchmark = load_benchmark("demo-math")
    with pytest.raises(ConfigError, match=f"no data for demo-math: nothing in {tmp_path}/demo-math.*leave --data-dir"):
        load_rows(benchmark, tmp_path)
    path = tmp_path / "demo-math" / "test.jsonl"
    path.parent.mkdir()
    path.write_text('{"problem": "mine", "expected_answer": 1}\n')
    assert [row["problem"] for row in load_rows(benchmark, tmp_path)] == ["mine"]


def test_the_users_usual_folder_does_not_hide_bundled_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_DATA_DIR", str(tmp_path))
    assert len(load_rows(load_benchmark("demo-math"), None)) == 200
