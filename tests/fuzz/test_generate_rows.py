"""Thousands of malformed rows for `generate`, with good rows beside them. Every row comes from a seed.

Each row gets one line of valid JSON, no row ends the run, and the good rows get the tokens of a calm run.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from trimode.tests.fuzz.json_values import ROLES, TEXTS, value
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.test_text import DEMO
from trimode.workers.generate import OUTPUT_KEYS, answers
from trimode.workers.params import KNOWN_FIELDS
from trimode.workers.rows import AnswerFile
from trimode.workers.runtime import Runtime

pytestmark = pytest.mark.slow

NAMES = sorted(KNOWN_FIELDS)
NUM_ROWS = 1500
GOOD: dict[str, object] = {"mode": "linear_spec", "prompt": "Tom has 3", "max_new_tokens": 6, "ignore_eos": True}


def spoilt(chance: random.Random) -> dict[str, object]:
    """A row with up to four spoilt fields."""
    row: dict[str, object] = {"id": chance.randrange(9), "mode": chance.choice(["ar", "dlm"]), "max_new_tokens": 2}
    row[chance.choice(["prompt", "prompt_ids"])] = chance.choice(["hi", [1, 2, 3]])
    if chance.random() < 0.3:
        del row[chance.choice(sorted(row))]
    for _ in range(chance.randrange(1, 5)):
        row[chance.choice(NAMES if chance.random() < 0.9 else TEXTS)] = value(chance, NAMES)
    if chance.random() < 0.2:
        row["messages"] = [{"role": chance.choice(ROLES), "content": value(chance, NAMES, depth=2)} for _ in range(2)]
    return row


def line(chance: random.Random) -> bytes:
    """The bytes of one line, which is not blank and holds no line end."""
    text = json.dumps(spoilt(chance)).encode("ascii")
    name, kind = chance.choice(NAMES), chance.randrange(12)
    if kind == 0:
        text = text[: chance.randrange(1, len(text))]
    elif kind == 1:
        at = chance.randrange(len(text))
        text = text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
    elif kind == 2:
        text = text.decode().encode(chance.choice(["utf-16", "utf-32", "utf-8-sig"]))
    elif kind == 3:
        text = text[:-1] + b', "mode": "ar", "mode": "dlm"}'
    elif kind == 4:
        deep = chance.choice([50, 900, 990, 1100, 100_000])
        text = text[:-1] + f', "{name}": '.encode() + b"[" * deep + b"]" * chance.choice([0, deep]) + b"}"
    elif kind == 5:
        digits = chance.choice([b"", b"-"]) + b"9" * chance.choice([18, 20, 400, 1000, 1001, 4300, 4301, 5000])
        text = text[:-1] + f', "{name}": '.encode() + digits + b"}"
    elif kind == 6:
        text = chance.choice([b"null", b"[]", b'"x"', b"1e999", b"\0", b"NaN", b"{}", chance.randbytes(50), b"\xff"])
    text = text.replace(b"\n", b" ")
    return text if text.strip() else b"{"


@pytest.mark.parametrize("seed", [0, 1])
def test_malformed_rows_cost_only_themselves(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    runtime = Runtime(micro_settings(model=str(DEMO), lora=None, max_num_seqs=16))
    good = json.dumps(GOOD | {"id": "good"}).encode()
    lines = [good if number % 8 == 0 else line(chance) for number in range(NUM_ROWS)]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(lines))
    with AnswerFile(target) as file:
        for place, result in answers(runtime, source):
            file.append(place, result)
        file.finish()
    written = target.read_text(encoding="utf-8").split("\n")
    assert written.pop() == ""
    results = [json.loads(text) for text in written]
    assert len(results) == NUM_ROWS
    expected = results[0]["token_ids"]
    assert len(expected) == 6
    assert all(result["token_ids"] == expected for result in results[::8])
    failed = [result for result in results if "error" in result]
    assert all(set(result) == {"id", "error"} and len(result["error"]) < 2000 for result in failed)
    answered = [result for result in results if "error" not in result]
    assert all(result.keys() - {"logprobs"} == {"id", *OUTPUT_KEYS} for result in answered)
    assert NUM_ROWS / 2 < len(failed) < NUM_ROWS * 7 / 8
    assert not [result for result in failed if "generation failed" in result["error"]]
    assert runtime.engine.allocator.num_free == runtime.engine.allocator.num_pages
