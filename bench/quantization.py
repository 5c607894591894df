"""`python -m trimode.bench.quantization`: what quantised weights cost in answers, on the bundled demo model.

Every scheme answers the same problems in every mode, greedily in bfloat16; the pipeline's scorers judge. Each answer is
compared with that of the plain weights: is it the same, and if not, at which token does it begin to differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from trimode.core.command import run_command
from trimode.core.protocol import Generation, Quantization, Row, WorkerSettings
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.data.load import load_rows
from trimode.pipeline.data.prompts import chat_messages
from trimode.pipeline.scoring import score_row
from trimode.pipeline.scoring.verdicts import is_right
from trimode.workers.decode.chunk import Chunk
from trimode.workers.model.batch import pack
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache, pages_for
from trimode.workers.runtime import Runtime

MODEL = Path(__file__).parents[1] / "assets" / "demo_model"
BENCHMARKS = ("demo-math", "demo-long", "demo-mcq", "demo-code", "demo-if")
MODES: dict[str, dict[str, object]] = {
    "ar": {"mode": "ar"},
    "dlm": {"mode": "dlm", "block_length": 32, "threshold": 0.9},
    "linear_spec": {"mode": "linear_spec", "block_length": 32, "threshold": 0.0},
    "linear_spec + LoRA": {"mode": "linear_spec", "block_length": 32, "threshold": 0.0, "lora": True},
    "auto": {"mode": "auto", "block_length": 32, "threshold": 0.0},
}
"""As in conf/mode/demo.yaml."""
SCHEMES: dict[str, tuple[Quantization, bool]] = {
    "bf16": (Quantization.none, False),
    "fp8": (Quantization.fp8, False),
    "fp8 + head": (Quantization.fp8, True),
    "w8a16": (Quantization.w8a16, False),
    "w8a16 + head": (Quantization.w8a16, True),
    "w4a16": (Quantization.w4a16, False),
    "w4a16 + head": (Quantization.w4a16, True),
}
"""Name -> scheme, and True if the head is quantised too. The first is what the others are compared with."""
COLUMNS = (
    "mode", "weights", *(f"{name.removeprefix('demo-')} %" for name in BENCHMARKS), "mean %", "same as bf16 %",
    "first difference", "log-prob shift", "tokens", "TPF", "accepted",
)  # fmt: skip
PROMPTS = 50
"""Prompts of each benchmark whose tokens are read for the divergence: there the model is less sure than in answers."""
MAX_NEW_TOKENS = 256
TOGETHER = 32
"""Requests decoded together."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One problem's answer."""

    generation: Generation
    right: bool


@dataclass(slots=True)
class Totals:
    """Sums over the answers of one scheme and mode."""

    right: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in BENCHMARKS})
    """Benchmark -> one verdict per problem."""
    tokens: int = 0
    nfe: int = 0
    accepted: list[int] = field(default_factory=list)
    """Tokens emitted per verify."""
    same: int = 0
    """Answers of the same tokens as with plain weights."""
    first_differences: list[int] = field(default_factory=list)
    """Of each other answer, the place of the first token that differs, from 0."""
    shifts: list[float] = field(default_factory=list)
    """Of each token up to there, how far its log-probability moved."""

    def add(self, benchmark: str, answer: Answered, plain: Answered) -> None:
        """Counts one answer."""
        ours, theirs = answer.generation, plain.generation
        self.right[benchmark].append(answer.right)
        self.tokens += ours.cost.completion_tokens
        self.nfe += ours.cost.nfe or 0
        self.accepted += ours.cost.acceptance_lengths
        common = _common(ours.token_ids, theirs.token_ids)
        if ours.token_ids == theirs.token_ids:
            self.same += 1
        else:
            self.first_differences.append(common)
        for one, other in zip((ours.logprobs or [])[:common], theirs.logprobs or [], strict=False):
            self.shifts.append(abs(one - other))

    def line(self, scheme: str, mode: str) -> str:
        """Returns one line of the table."""
        shares = [100 * sum(found) / len(found) for found in self.right.values()]
        count = sum(len(found) for found in self.right.values())
        first = f"{_mean(self.first_differences):.1f}" if self.first_differences else "-"
        accepted = f"{_mean(self.accepted):.2f}" if self.accepted else "-"
        cells = [
            mode,
            scheme,
            *(f"{share:.1f}" for share in [*shares, _mean(shares)]),
            f"{100 * self.same / count:.1f}",
            first,
            f"{_mean(self.shifts):.4f}",
            f"{self.tokens / count:.1f}",
            f"{self.tokens / self.nfe:.2f}",
            accepted,
        ]
        return "| " + " | ".join(cells) + " |"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many tokens two answers begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class Judge:
    """Judges answers. The same answer to the same problem is judged once, which saves most of the time."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, int, str], bool] = {}

    def __call__(self, benchmark: Benchmark, number: int, row: Row, text: str) -> bool:
        """Returns True if `text` is a right answer to problem `number` of the benchmark."""
        key = (benchmark.name, number, text)
        if key not in self._verdicts:
            scored = {**row, benchmark.generation_key: text}
            self._verdicts[key] = bool(is_right(benchmark, scored | score_row(benchmark, scored)))
        return self._verdicts[key]


def answer_all(
    runtime: Runtime, benchmark: Benchmark, rows: Sequence[Row], options: dict[str, object], judge: Judge
) -> list[Answered]:
    """Answers all problems of a benchmark in one mode and judges the answers."""
    fixed = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 0.0, "logprobs": True, **options}
    sequences = [
        runtime.submit(str(number), {"messages": chat_messages(benchmark, row), **fixed})
        for number, row in enumerate(rows)
    ]
    while runtime.engine.busy:
        runtime.engine.step()
    answers = []
    for number, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
        if sequence.error is not None:
            raise sequence.error
        generation = runtime.generation(sequence)
        answers.append(Answered(generation, judge(benchmark, number, row, generation.text or "")))
    return answers


def load(model: Path, scheme: str) -> Runtime:
    """Returns the demo model with its adapter in one scheme."""
    quantization, head = SCHEMES[scheme]
    return Runtime(
        WorkerSettings(
            model=str(model),
            lora=str(model / "linear_spec_lora"),
            weight_storage="bf16",  # sizes are compared with it
            device="cpu",
            dtype="bfloat16",
            quantization=quantization.value,
            quantize_head=head,
            batch_invariant=True,
            max_num_seqs=TOGETHER,
            kv_cache_gb=0.25,
        )
    )


def prompt_logits(runtime: Runtime, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Returns the logits of every token of the prompts, read causally: `[tokens, vocab]`, float32."""
    model, found = runtime.engine.model, []
    for ids in prompts:
        pages = pages_for(len(ids))
        chunk = Chunk("prefill", list(ids), 0, causal=True, keep_kv=True, rows=range(len(ids)), purpose="bench")
        batch = pack([chunk], [list(range(pages))], PAGE_SIZE, model.device)
        found.append(model.head(model.forward(batch, KVCache(model.config, pages, model.dtype, model.device))))
    return torch.cat(found)


def divergence(logits: torch.Tensor, plain: torch.Tensor) -> tuple[float, float]:
    """Returns the mean Kullback-Leibler divergence from the plain weights, in nats, and how often the top token is the
    same, in percent."""
    kl = F.kl_div(logits.log_softmax(-1), plain.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return float(kl.mean()), 100 * float((logits.argmax(-1) == plain.argmax(-1)).float().mean())


def measure(model: Path, limit: int, modes: Sequence[str]) -> None:
    """Prints the table of answers, then that of weights."""
    benchmarks = {name: load_benchmark(name) for name in BENCHMARKS}
    rows = {name: load_rows(benchmark, None)[:limit] for name, benchmark in benchmarks.items()}
    plain: dict[tuple[str, str], list[Answered]] = {}
    lines: dict[str, list[str]] = {mode: [] for mode in modes}
    judge = Judge()
    weights, prompts, exact, plain_bytes = [], list[list[int]](), torch.empty(0), 0
    for scheme in SCHEMES:
        runtime = load(model, scheme)
        if not prompts:
            every = [chat_messages(benchmarks[name], row) for name in BENCHMARKS for row in rows[name][:PROMPTS]]
            prompts = [runtime.prepare({"messages": messages, "mode": "ar"}).prompt_ids for messages in every]
            exact, plain_bytes = prompt_logits(runtime, prompts), runtime.engine.model.num_weight_bytes
        size = runtime.engine.model.num_weight_bytes
        kl, top = divergence(prompt_logits(runtime, prompts), exact)
        weights.append(f"| {scheme} | {size:,} | {size / plain_bytes:.1%} | {kl:.5f} | {top:.2f} |")
        for mode in modes:
            totals = Totals()
            for name, benchmark in benchmarks.items():
                answers = answer_all(runtime, benchmark, rows[name], MODES[mode], judge)
                before = plain.setdefault((mode, name), answers)
                for answer, reference in zip(answers, before, strict=True):
                    totals.add(name, answer, reference)
            lines[mode].append(totals.line(scheme, mode))
    print(f"{sum(map(len, rows.values()))} problems, {len(exact)} tokens of {len(prompts)} prompts; greedy, bfloat16\n")
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}")
    for mode_lines in lines.values():
        print("\n".join(mode_lines))
    print("\n| weights | bytes | of bf16 | divergence on prompts, nats | same top token % |\n|---|---:|---:|---:|---:|")
    print("\n".join(weights))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode.bench.quantization", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint folder (default: the demo model)")
    parser.add_argument("--limit", type=int, default=200, help="problems of each benchmark (default: all 200)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="rows of MODES (default: all)")
    arguments = parser.parse_args()
    measure(arguments.model, arguments.limit, arguments.modes)


if __name__ == "__main__":
    run_command(main)
