"""Writes made-up run folders in the real file formats, so that reading and reporting can be tested without a model.

Answers, verdicts and ledgers are drawn from a seeded generator.
"""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path

from trimode.core.files import write_json_atomic
from trimode.core.protocol import Cost, Mode
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import DType, ModelSpec, TaskSpec
from trimode.tests.fakes.specs import decode_spec, job_spec

WORDS = ("so", "the", "first", "train", "leaves", "with", "twelve", "people", "then", "three", "get", "off", "again")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRun:
    """What one made-up run holds."""

    mode: str = "ar"
    lora: bool = False
    benchmarks: tuple[str, ...] = ("demo-math",)
    samples: int = 20
    seeds: int = 1
    accuracy: float = 0.8
    salt: str = ""
    """Changes every draw; runs with the same salt share answers where the mode allows."""
    model: str = "demo_model"
    block_length: int = 32
    temperature: float = 0.0
    finished: bool = True
    hostile: str = ""
    """Text put into every prompt and answer."""

    @property
    def label(self) -> str:
        return f"{self.mode}+lora" if self.lora else self.mode


def write_run(root: Path, fake: FakeRun) -> Path:
    """One run folder below `root`; returns it."""
    run_dir = root / f"exp_{fake.label.replace('+', '_')}" / "hf_base" / f"eval_{fake.model}{fake.salt}"
    paths = RunPaths(run_dir)
    lines: list[str] = []
    for name in fake.benchmarks:
        task_seeds = [[make_row(fake, name, i, seed) for i in range(fake.samples)] for seed in range(fake.seeds)]
        for seed, rows in enumerate(task_seeds):
            kept = rows if fake.finished else rows[: fake.samples // 2]
            target = paths.output(name, seed) if fake.finished else paths.output_async(name, seed)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("w", encoding="utf-8") as file:
                for i, row in enumerate(kept):
                    ledger = make_record(fake, name, i, seed, row).to_json()
                    line = row if fake.finished else {**row, "_nfe": ledger, "_async_position": i}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            lines += [make_record(fake, name, i, seed, row).to_line() for i, row in enumerate(kept)]
        if fake.finished:
            write_json_atomic(paths.metrics(name), make_metrics(name, task_seeds))
    log = paths.nfe_log(0)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(lines), encoding="utf-8")
    write_json_atomic(paths.manifest, make_manifest(fake))
    write_json_atomic(paths.plan, {"jobs": [make_job(fake)]})
    if fake.finished:
        paths.completed(0).touch()
    return run_dir


def demo_sweep(root: Path, samples: int = 40) -> Path:
    """Four runs over four benchmarks, like the demo's."""
    names = ("demo-math", "demo-mcq", "demo-code", "demo-if")
    write_run(root, FakeRun(mode="ar", benchmarks=names, samples=samples, accuracy=0.8))
    write_run(root, FakeRun(mode="dlm", benchmarks=names, samples=samples, accuracy=0.75))
    write_run(root, FakeRun(mode="linear_spec", benchmarks=names, samples=samples, accuracy=0.8))
    write_run(root, FakeRun(mode="linear_spec", lora=True, benchmarks=names, samples=samples, accuracy=0.8))
    return root


def make_row(fake: FakeRun, name: str, sample_id: int, seed: int) -> dict[str, object]:
    """One scored row with the keys of the benchmark's scorer."""
    benchmark = load_benchmark(name)
    group = "dlm" if fake.mode == "dlm" else "causal"
    draw = random.Random(f"{group}{name}{sample_id}{seed}{fake.salt}")
    shared = random.Random(f"{name}{sample_id}")
    expected, ask = shared.randrange(100), " ".join(shared.choices(WORDS, k=12))
    # what is hard for one mode is mostly hard for the others
    right = 0.7 * shared.random() + 0.3 * draw.random() < fake.accuracy
    predicted = expected if right else expected + 1
    story = " ".join(draw.choices(WORDS, k=draw.randrange(8, 40)))
    reply: dict[str, object] = {
        benchmark.generation_key: f"{fake.hostile}{story}: \\boxed{{{predicted}}}",
        "num_generated_tokens": len(story.split()) + 4,
        "finish_reason": "stop",
        "serialized_output": [{"role": "assistant", "content": story}],
        "generation_start_time": 1000.0 + sample_id,
        "generation_end_time": 1001.0 + sample_id,
        "generation_time": 1.0,
    }
    question = f"{fake.hostile}Problem {sample_id}: {ask}?"
    if benchmark.scorer == "ifeval":
        verdict = {"follow_all_instructions": right, "follow_instruction_list": [right, True]}
        verdict |= {"instruction_id_list": ["length:words", "case:lower"], "prompt": question, "response": story}
        return {**reply, "key": sample_id, "prompt": question, "question": question, "kwargs": [{}, {}]} | {
            "instruction_id_list": ["length:words", "case:lower"],
            "strict_eval": verdict,
            "loose_eval": verdict,
        }
    if benchmark.scorer in ("code_tests", "evalplus"):
        code = {"completion": f"return {predicted}", "is_correct": right, "is_correct-plus": right}
        return {
            **reply,
            "task_id": f"{name}/{sample_id}",
            "question": question,
            "test": f"assert f() == {expected}",
        } | code
    letter = "ABCD"[expected % 4] if benchmark.scorer == "multichoice" else str(expected)
    wrong = "ABCD"[(expected + 1) % 4] if benchmark.scorer == "multichoice" else str(predicted)
    verdict = {"predicted_answer": fake.hostile + (letter if right else wrong), "symbolic_correct": right}
    return {"problem": question, "expected_answer": letter, **reply, **verdict}


def make_record(fake: FakeRun, name: str, sample_id: int, seed: int, row: dict[str, object]) -> NfeRecord:
    """The ledger line of a row: exact per mode, so that sums can be checked by hand."""
    tokens = int(str(row["num_generated_tokens"]))
    draw = random.Random(f"ledger{fake.label}{name}{sample_id}{seed}{fake.salt}")
    forwards = {"prefill": 1, "decode": 0, "denoise": 0, "cache": 0, "draft": 0, "verify": 0}
    accepted: list[int] = []
    if fake.mode == "ar":
        forwards["decode"] = nfe = tokens
    elif fake.mode == "dlm":
        blocks = -(-tokens // 32)
        forwards |= {"denoise": max(blocks, tokens // 4), "cache": blocks}
        nfe = forwards["denoise"] + blocks
    else:
        left = tokens - 1
        while left > 0:
            accepted.append(min(left, 1 + min(31, int(draw.expovariate(1 / (10 if fake.lora else 7))))))
            left -= accepted[-1]
        forwards |= {"draft": len(accepted), "verify": len(accepted)}
        nfe = 1 + 2 * len(accepted)
    seconds = 0.01 * sum(forwards.values())
    return NfeRecord(
        request_id=f"{name}-{seed}-{sample_id}",
        benchmark=name,
        sample_id=sample_id,
        seed=seed,
        mode=fake.mode,
        lora=fake.lora,
        finish_reason="stop",
        cost=Cost(
            prompt_tokens=30,
            completion_tokens=tokens,
            forwards=forwards,
            nfe=nfe,
            acceptance_lengths=accepted,
            queue_s=0.5,
            first_token_s=0.52,
            total_s=0.5 + seconds,
        ),
    )


def make_metrics(name: str, seeds: list[list[dict[str, object]]]) -> dict[str, object]:
    """metrics.json for the demo metrics: pass@1 (and its average over seeds), subsets left out."""
    benchmark = load_benchmark(name)

    def right(row: dict[str, object]) -> bool:
        strict = row.get("strict_eval")
        if isinstance(strict, dict):
            return bool(strict["follow_all_instructions"])
        return bool(row.get("symbolic_correct", row.get("is_correct")))

    rows = [row for seed in seeds for row in seed]
    value = 100 * sum(map(right, rows)) / len(rows)
    tokens = int(sum(int(str(row["num_generated_tokens"])) for row in rows) / len(rows))
    aggregate = {"num_entries": len(seeds[0]), "avg_tokens": tokens, "gen_seconds": 9, benchmark.metric: value}
    found = {"pass@1": aggregate}
    if len(seeds) > 1:
        found[f"pass@1[avg-of-{len(seeds)}]"] = aggregate
    return {name: found}


def make_job(fake: FakeRun) -> dict[str, object]:
    """The job's entry in plan.json."""
    seeds = tuple(range(fake.seeds))
    tasks = [
        TaskSpec(benchmark=name, repeats=fake.seeds, seeds=seeds, num_samples=fake.samples, limit=None)
        for name in fake.benchmarks
    ]
    decode = decode_spec(
        mode=Mode(fake.mode),
        lora=fake.lora,
        block_length=fake.block_length,
        threshold=0.9,
        temperature=fake.temperature,
    )
    model = ModelSpec(path=f"/models/{fake.model}", tokenizer=None, dtype=DType.bfloat16, max_position_embeddings=None)
    return dataclasses.asdict(job_spec(Path("/runs"), tuple(tasks), decode=decode, model=model))


def make_manifest(fake: FakeRun) -> dict[str, object]:
    """manifest.json, as far as a reader needs it."""
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    return {
        "prompts": {name: load_benchmark(name).prompt_sha256 for name in fake.benchmarks},
        "data": {name: {"sha256": "d" * 64, "num_rows": fake.samples} for name in fake.benchmarks},
        "weights_sha256": "a" * 64,
        "lora_sha256": "b" * 64 if fake.lora else None,
        "exp_name": f"exp_{fake.label}",
        "jobs": {"0": {"config": make_job(fake), "versions": versions, "dtype": "bfloat16", "git_commit": "c" * 40}},
    }
