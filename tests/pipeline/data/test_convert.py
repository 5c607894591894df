"""Raw rows to prepared ones, where no published file is at hand."""

import csv
import io
import sys
import tarfile
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data import convert_choices, convert_code, convert_instructions, convert_math, load_rows
from trimode.pipeline.data.formats import read_mmlu_tar, read_parquet

GPQA = {
    "Question": "\nWhich?\n",
    "Correct Answer": " right [title]one  two \n",
    "Incorrect Answer 1": "w1",
    "Incorrect Answer 2": "w2",
    "Incorrect Answer 3": "w3",
    "Explanation": "",
    "Subdomain": "Genetics",
    "Writer's Difficulty Estimate": "Hard undergraduate level (could answer)",
}


def test_gsm8k_loses_calculator_marks_and_thousands_commas() -> None:
    row = convert_math.gsm8k({"question": "q", "answer": "2*3=<<2*3=6>>6\n#### 1,006"})
    assert row == {"problem": "q", "expected_answer": 1006, "reference_solution": "2*3=6\n"}


def test_gsm8k_keeps_a_fraction_as_float() -> None:
    assert convert_math.gsm8k({"question": "q", "answer": "#### 2.5"})["expected_answer"] == 2.5


def test_mmlu_counts_57_subjects_in_17_areas() -> None:
    assert len(convert_choices.MMLU_AREAS) == 57
    assert len(set(convert_choices.MMLU_AREAS.values())) == 17


def test_mmlu_pro_letters_every_option_and_joins_the_category() -> None:
    row = convert_choices.mmlu_pro({"question": "\nq\n", "options": ["x", "y", "z"], "answer": "B", "category": "a b"})
    assert list(row) == ["expected_answer", "examples_type", "subset_for_metrics", "problem", "options", *"ABC"]
    assert row["problem"] == "q\n\nA) x\nB) y\nC) z"
    assert row["subset_for_metrics"] == "a_b"


def test_gpqa_cleans_choices_and_says_where_the_right_one_went() -> None:
    (row,) = convert_choices.gpqa([GPQA])
    assert row[str(row["expected_answer"])] == "right. one two"
    assert row["explanation"] == " "
    assert row["difficulty"] == "Hard undergraduate level"
    assert str(row["problem"]).startswith("Which?\n\nA) ")


def test_gpqa_shuffles_alike_every_time_and_on_from_row_to_row() -> None:
    rows = convert_choices.gpqa([GPQA] * 12)
    assert rows == convert_choices.gpqa([GPQA] * 12)
    assert len({row["expected_answer"] for row in rows}) == 4


def test_a_csv_of_gpqa_is_read_as_the_hub_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "gpqa" / "gpqa_diamond.csv"
    path.parent.mkdir()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(GPQA))
        writer.writeheader()
        writer.writerows([GPQA | {"Incorrect Answer 2": "a, b\nc"}] * 3)
    assert [row["subset_for_metrics"] for row in load_rows(load_benchmark("gpqa"), tmp_path)] == ["Genetics"] * 3


@pytest.mark.parametrize(
    ("starter", "ending"),
    [
        (
            "class S:\n    def f(self):\n        ",
            "code within delimiters.\n```python\nclass S:\n\tdef f(self):\n\t\t\n```\n\n",
        ),
        ("", "writes output to STDOUT.\n\n```python\n# YOUR CODE HERE\n```\n\n"),
    ],
)
def test_livecodebench_ends_with_starter_code_or_an_empty_fence(starter: str, ending: str) -> None:
    raw = {"question_content": "Q.", "starter_code": starter, "question_id": "7", "difficulty": "easy"}
    row = convert_code.livecodebench(raw | {"contest_date": "2024-09-01T00:00:00"})
    assert str(row["question"]).startswith("Q.\n\n")
    assert str(row["question"]).endswith(ending)
    assert row["release_version"] == "v6"


@pytest.mark.parametrize(
    ("day", "inside"), [("2024-07-31", False), ("2024-08-01", True), ("2025-05-31", True), ("2025-06-01", False)]
)
def test_livecodebench_keeps_the_contests_of_the_window(day: str, inside: bool) -> None:
    assert convert_code.in_window({"contest_date": f"{day}T00:00:00"}) is inside


def test_ifeval_drops_the_nulls_that_the_hub_adds() -> None:
    raw = {"key": 1, "prompt": "p", "instruction_id_list": ["a"], "kwargs": [{"n": 2, "m": None}]}
    row = convert_instructions.ifeval(raw)
    assert row["kwargs"] == [{"n": 2}]
    assert row["question"] == "p"


def test_mmlus_tar_is_read_in_the_order_of_its_members(tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as tar:
        for name, text in (
            ("data/test/virology_test.csv", 'q1,a,b,c,d,B\n"q, 2",a,b,c,d,C\nodd,row\n'),
            ("data/dev/virology_dev.csv", "not,this,one,a,b,c\n"),
            ("data/test/anatomy_test.csv", "q3,a,b,c,d,A\n"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    rows = read_mmlu_tar(path)
    assert [(row["subject"], row["question"]) for row in rows] == [
        ("virology", "q1"),
        ("virology", "q, 2"),
        ("anatomy", "q3"),
    ]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"trimode\[data\]"):
        read_parquet(tmp_path / "x.parquet")
