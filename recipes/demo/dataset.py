"""Examples on the training and the test side of every demo benchmark.

The sha256 of the prompt decides its side, so a test prompt can never be drawn for training."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml
from trimode.recipes.demo.tasks import arithmetic, choice, drill, function, instruction, longer
from trimode.recipes.demo.tasks.example import Example

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS_DIR = ROOT / "assets" / "benchmarks"
TEST_SHARE = 26  # of 256
TEST_SEED = 20261121
NUM_TEST = 200
TASKS: dict[str, Callable[[random.Random], Example]] = {
    "demo-math": arithmetic.draw,
    "demo-mcq": choice.draw,
    "demo-code": function.draw,
    "demo-if": instruction.draw,
}
"""What the model is trained on and tested with."""
BENCHMARKS = {**TASKS, "demo-long": longer.draw}
"""What the model is tested with."""
DRAWN = {**BENCHMARKS, "sums": drill.draw_sums, "lookups": drill.draw_lookups}
EQUAL_SHARES: Mapping[str, int] = dict.fromkeys(TASKS, 1)


def load_prompts() -> dict[str, str]:
    """Returns the prompt template of each benchmark, as the evaluation reads it."""
    folder = ROOT / "conf" / "benchmark"
    return {name: yaml.safe_load((folder / f"{name}.yaml").read_text())["prompt"] for name in BENCHMARKS}


def is_test(prompt: str) -> bool:
    """True if this user message belongs to the test side."""
    return hashlib.sha256(prompt.encode()).digest()[0] < TEST_SHARE


class Sampler:
    """Draws examples of all tasks."""

    def __init__(self) -> None:
        self.prompts = {**load_prompts(), "sums": "{problem}", "lookups": "{problem}"}

    def user_message(self, name: str, example: Example) -> str:
        """Returns the user message of an example."""
        return self.prompts[name].format(**example.row)

    def side(self, name: str, rng: random.Random, *, test: bool) -> Iterator[tuple[str, Example]]:
        """Yields (user message, example) pairs of one side of one task, without end."""
        while True:
            example = DRAWN[name](rng)
            message = self.user_message(name, example)
            if is_test(message) == test:
                yield message, example

    def train_pairs(self, count: int, seed: str, shares: Mapping[str, int] = EQUAL_SHARES) -> list[tuple[str, str]]:
        """Returns (user message, answer) pairs, the tasks in turn by their shares. Only the arguments decide."""
        rng = random.Random(seed)  # noqa: S311 - training data, not a secret
        sides = {name: self.side(name, rng, test=False) for name in shares}
        turns = [sides[name] for name, share in shares.items() for _ in range(share)]
        pairs = (next(turns[index % len(turns)]) for index in range(count))
        return [(message, example.answer) for message, example in pairs]

    def test_examples(self, name: str, count: int = NUM_TEST) -> list[tuple[str, Example]]:
        """Returns the distinct test problems of one benchmark."""
        rng = random.Random(f"{name}-{TEST_SEED}")  # noqa: S311 - test data, not a secret
        chosen: dict[str, Example] = {}
        for message, example in self.side(name, rng, test=True):
            chosen.setdefault(message, example)
            if len(chosen) == count:
                break
        return list(chosen.items())


def benchmark_lines(name: str) -> list[str]:
    """Returns the rows of one test file, as JSON lines with their identifier first."""
    key = {"demo-code": "task_id", "demo-if": "key"}.get(name, "id")
    lines = []
    for index, (_, example) in enumerate(Sampler().test_examples(name)):
        identifier: str | int = index if key == "key" else f"{name}-{index}" if key == "id" else f"{name}/{index}"
        lines.append(json.dumps({key: identifier, **example.row}, ensure_ascii=False))
    return lines


def write_benchmarks(folder: Path = BENCHMARKS_DIR) -> None:
    """Writes every test file."""
    for name in BENCHMARKS:
        path = folder / name / "test.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(benchmark_lines(name)) + "\n")
