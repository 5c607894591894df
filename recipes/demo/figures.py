"""`python -m trimode.recipes.demo.figures`: accuracy, tokens per forward and agreement of the modes on the test sets.

The workers' engine answers in float32; the pipeline's scorers judge."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode.core.command import run_command
from trimode.core.protocol import WorkerSettings
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring import score_row
from trimode.pipeline.scoring.verdicts import is_right
from trimode.recipes.demo import dataset
from trimode.workers.generate import answer
from trimode.workers.runtime import Runtime

MODES: dict[str, dict[str, Any]] = {
    "ar": {"mode": "ar"},
    "dlm": {"mode": "dlm", "block_length": 32, "threshold": 0.9},
    "linear_spec": {"mode": "linear_spec", "block_length": 32, "threshold": 0.0},
    "linear_spec + LoRA": {"mode": "linear_spec", "block_length": 32, "threshold": 0.0, "lora": True},
}
MAX_NEW_TOKENS = 128
COLUMNS = "| mode | benchmark | problems | accuracy % | TPF | tokens | same as ar % |"


@dataclass
class Cell:
    """Sums over the problems of one mode and benchmark."""

    problems: int = 0
    correct: int = 0
    tokens: int = 0
    nfe: int = 0
    same: int = 0

    def add(self, other: "Cell") -> None:
        """Adds the sums of another cell."""
        for name in ("problems", "correct", "tokens", "nfe", "same"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def line(self, mode: str, benchmark: str) -> str:
        """Returns one line of the table."""
        share = 100 / self.problems
        return (
            f"| {mode} | {benchmark} | {self.problems} | {self.correct * share:.1f} | {self.tokens / self.nfe:.2f} "
            f"| {self.tokens / self.problems:.1f} | {self.same * share:.1f} |"
        )


def committed_rows(name: str, limit: int) -> list[dict[str, Any]]:
    """Returns the first rows of a committed test file."""
    text = (dataset.BENCHMARKS_DIR / name / "test.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()[:limit]]


def generate(
    runtime: Runtime, rows: Sequence[dict[str, Any]], prompt: str, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns the engine's results for one mode and benchmark."""
    requests = [
        {
            "id": index,
            "messages": [{"role": "user", "content": prompt.format(**row)}],
            "max_new_tokens": MAX_NEW_TOKENS,
            **options,
        }
        for index, row in enumerate(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.jsonl"
        path.write_text("".join(json.dumps(request) + "\n" for request in requests))
        return answer(runtime, path)


def measure(runtime: Runtime, name: str, limit: int) -> dict[str, Cell]:
    """Returns one cell per mode for one benchmark."""
    rows, prompt, benchmark = committed_rows(name, limit), dataset.load_prompts()[name], load_benchmark(name)
    results = {mode: generate(runtime, rows, prompt, options) for mode, options in MODES.items()}
    cells = {}
    for mode, answers in results.items():
        cell = cells[mode] = Cell()
        for row, one, reference in zip(rows, answers, results["ar"], strict=True):
            scored = {**row, benchmark.generation_key: one["text"]}
            scored |= score_row(benchmark, scored)
            cell.add(
                Cell(
                    1,
                    int(is_right(benchmark, scored)),
                    len(one["token_ids"]),
                    one["nfe"],
                    int(one["token_ids"] == reference["token_ids"]),
                )
            )
    return cells


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m trimode.recipes.demo.figures", description=__doc__)
    parser.add_argument("--model", type=Path, default=dataset.ROOT / "assets" / "demo_model")
    parser.add_argument("--limit", type=int, default=dataset.NUM_TEST, help="problems per benchmark")
    arguments = parser.parse_args()
    runtime = Runtime(
        WorkerSettings(
            model=str(arguments.model), lora=str(arguments.model / "linear_spec_lora"), device="cpu", dtype="float32"
        )
    )
    tables = {name: measure(runtime, name, arguments.limit) for name in dataset.BENCHMARKS}
    print(COLUMNS + "\n|---|---|---:|---:|---:|---:|---:|")
    for mode in MODES:
        overall = Cell()
        for name, cells in tables.items():
            print(cells[mode].line(mode, name))
            overall.add(cells[mode])
        print(overall.line(mode, "all"))


if __name__ == "__main__":
    run_command(main)
