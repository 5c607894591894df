"""A bounded fuzzer over data files: rows of all kinds of damage beside good rows. Nothing is lost and the job ends."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trimode.core.protocol import NEVER_SCORED
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.client.answer import Answer
from trimode.pipeline.client.metrics_file import check_metrics
from trimode.pipeline.client.samples import run_tasks
from trimode.pipeline.client.tasks import load_tasks
from trimode.pipeline.console.progress import Progress
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.nfe import read_run_ledger
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256
from trimode.pipeline.run_folder.resume import is_finished
from trimode.pipeline.run_folder.rows import read_output
from trimode.pipeline.spec import JobSpec
from trimode.tests.fakes.specs import job_spec, task_spec

pytestmark = pytest.mark.process  # rows are scored by the real processes

SEEDS = range(3)
GOOD, DAMAGED = 12, 60
GOOD_ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"problem": "say 7", "expected_answer": 7},
    "mmlu": {"problem": "say 7", "expected_answer": "A", "options": "A) 7", "subset_for_metrics": "law"},
    "ifeval": {
        "question": "say 7",
        "prompt": "say 7",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
        "key": 1,
    },
}
ANSWERS = {"gsm8k": r"\boxed{7}", "mmlu": r"\boxed{A}", "ifeval": "seven"}
KEYS = (
    *("generation", "response", "error", "error_kind", "scoring_error", "finish_reason", "num_generated_tokens"),
    *("symbolic_correct", "predicted_answer", "strict_eval", "loose_eval", "_nfe", "_async_position", "data_error"),
    *("subset_for_metrics", "num_reasoning_tokens", "num_answer_tokens", "generation_start_time", "meta", "id"),
    *("extract_regex", "extract_from_boxed", "relaxed", "reasoning_content", "serialized_output", ""),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        10**4000,
        0.5,
        float("nan"),
        float("inf"),
        float("-inf"),
        1e308,
        "",
        " ",
        "infrastructure",
    ),
    *(
        "\ud83d",
        "\udc00x",
        "\x00",
        "\u2028",
        "{problem}",
        "{0}",
        "%s",
        "\\boxed{",
        "(",
        "x" * 20_000,
        "\ufeff",
        "7" * 3000,
    ),
    *([], {}, [None], [[[]]], ["a", "b"], {"error_kind": "infrastructure"}, {"scoring_error": 1}, {"\ud83d": "\ud83d"}),
)
LINES = (
    *(
        b"{",
        b"}",
        b"[]",
        b"null",
        b"NaN",
        b"7",
        b'"text"',
        b"{]",
        b"\xff\xfe",
        b"\x00",
        b"{}",
        b'{"a": 1,}',
        b"{'a': 1}",
    ),
    *(b"[" * 100_000, b'{"a":' * 50_000, b'{"problem": 1' + b"0" * 5000 + b"}", b"\xef\xbb\xbf{", b"// comment"),
    *(b'{"problem": "a", "problem": "\\ud83d"}', b'{"problem": "\xed\xa0\xbd"}', b'{"problem": "say 7"'),
    *(b'{"problem": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}", b"\x1e{}", "{\u201cproblem\u201d: 1}".encode()),
)


def damaged_line(chance: random.Random, good: dict[str, Any]) -> bytes:
    """Returns a line of one kind of damage; some of these rows can still be asked."""
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(LINES)
    row = dict(good)
    for _ in range(1 if kind < 4 else 4):
        name = chance.choice(list(good) if kind in (1, 2) else KEYS)
        row[name] = chance.choice(VALUES)
    if kind == 2:
        del row[chance.choice(list(good))]
    line = json.dumps(row).encode()
    return line[: chance.randrange(len(line))].strip() or b"{" if kind == 3 else line


async def ask(name: str, prompt: str, _seed: int) -> Answer:
    """Answers every prompt rightly; now and then as a server does that refuses. Sends bytes, as every client must."""
    prompt.encode()
    await asyncio.sleep(0)
    benchmark = name.rpartition("-rs")[0]
    if name.endswith("9"):
        return Answer(request_id=name, error="HTTP 400: \ud83d", error_kind="request")
    return Answer(request_id=name, text=ANSWERS[benchmark], finish_reason="stop")


def run(spec: JobSpec) -> RunPaths:
    folder = RunFolder(spec, RunPaths(Path(spec.run_dir)))
    folder.paths.run_dir.mkdir(exist_ok=True)
    loaded = load_tasks(folder)
    facts = {
        item.benchmark.name: {"sha256": data_sha256(item.all_rows), "num_rows": len(item.all_rows)} for item in loaded
    }
    Manifest(spec, folder.paths).open({}, facts)
    progress = Progress("fuzz", lambda _line: None, snapshot=folder.paths.progress(0))
    for item in loaded:
        progress.begin(item.benchmark.name, total=len(item.positions), done=item.num_done)
    asyncio.run(asyncio.wait_for(run_tasks(folder, loaded, ask, progress), 500))
    for item in loaded:
        check_metrics(folder.paths, item.task, item.rows_asked)
    return folder.paths


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", GOOD_ROWS)
def test_damaged_rows_cost_themselves_only(name: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(f"{name}{seed}")
    good = GOOD_ROWS[name]
    lines = [json.dumps(good).encode()] * GOOD + [damaged_line(chance, good) for _ in range(DAMAGED)]
    order = list(range(len(lines)))
    chance.shuffle(order)
    path = tmp_path / "data" / name / f"{load_benchmark(name).split}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(lines[index] + b"\n" for index in order))
    spec = job_spec(tmp_path, (replace(task_spec(), benchmark=name, num_samples=1),))
    paths = run(spec)
    rows = read_output(paths, name, 0)
    assert len(rows) == len(lines)
    ledger = read_run_ledger(paths.run_dir)
    assert {key[2] for key in ledger} == set(range(len(lines)))
    metrics = json.loads(paths.metrics(name).read_text(encoding="utf-8"))
    assert metrics[name]["pass@1"]["num_entries"] == metrics["nfe_count"] == len(lines)
    assert metrics["failed"] == sum("error" in row for row in rows)
    for position, index in enumerate(order):
        if index < GOOD:
            row = rows[position]
            right = row["strict_eval"]["follow_all_instructions"] if name == "ifeval" else row["symbolic_correct"]
            assert right != str(position).endswith("9"), row
            assert "scoring_error" not in row
    reasons = [str(row.get("scoring_error", NEVER_SCORED)) for row in rows]
    assert is_finished(spec) == all(reason.startswith(NEVER_SCORED) for reason in reasons)
    before = [{key: value for key, value in row.items() if key != "interleaved_eval_single_time_s"} for row in rows]
    run(spec)
    after = read_output(paths, name, 0)
    assert [{key: row[key] for key in row if key != "interleaved_eval_single_time_s"} for row in after] == before
    assert read_run_ledger(paths.run_dir) == ledger
