"""IFEval: checks if a reply follows each of its instructions, strictly and loosely.

The 25 instructions and the loose variants are those of Google's instruction_following_eval; the code is our own.
"""

from __future__ import annotations

from pathlib import Path

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.ifeval import keywords, language, layout, length
from trimode.pipeline.scoring.ifeval.arguments import Arguments, Check
from trimode.pipeline.scoring.ifeval.punkt import require_punkt, use_data_dir
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("loose_eval", "strict_eval")
ROW_LIMIT_S = 60.0

CHECKS: dict[str, Check] = {**keywords.CHECKS, **length.CHECKS, **layout.CHECKS, **language.CHECKS}
"""Published instruction id -> check."""


def follows(instruction: str, arguments: Arguments, response: str) -> bool:
    """True if a response follows one instruction. An empty one follows none. Raises ValueError for an unknown id."""
    if instruction not in CHECKS:
        raise ValueError(f"unknown instruction: got {instruction!r}; valid: {', '.join(sorted(CHECKS))}")
    return bool(response.strip()) and CHECKS[instruction](response, arguments)


def variants(response: str) -> list[str]:
    """Returns the response and seven loose variants: without first, last or both lines, each also without asterisks."""
    lines = response.split("\n")
    cuts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cuts + [cut.replace("*", "") for cut in cuts]


def evaluation(row: Row, response: str, followed: list[bool]) -> Row:
    """Returns one of the two verdicts, in the form of the original."""
    return {
        "follow_all_instructions": bool(followed) and all(followed),
        "follow_instruction_list": followed,
        "instruction_id_list": row["instruction_id_list"],
        "prompt": row["prompt"],
        "response": response,
    }


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
    """Returns `loose_eval` and `strict_eval` of one row with `prompt`, `instruction_id_list` and `kwargs`."""
    response = answer_text(benchmark, row)
    if response is None:
        return no_answer(benchmark, row)
    use_data_dir(data_dir)
    instructions = [
        (instruction, {name: value for name, value in arguments.items() if value is not None})
        for instruction, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True)
    ]
    strict = [follows(name, arguments, response) for name, arguments in instructions]
    loose = [any(follows(name, arguments, text) for text in variants(response)) for name, arguments in instructions]
    return {"loose_eval": evaluation(row, response, loose), "strict_eval": evaluation(row, response, strict)}


def no_answer(benchmark: Benchmark, row: Row) -> Row:
    """Returns the verdict of no instruction followed."""
    response = answer_text(benchmark, row) or ""
    asked = row.get("instruction_id_list")
    names = asked if isinstance(asked, list) else []  # a damaged row may have none
    known = {"prompt": row.get("prompt"), "instruction_id_list": names}
    followed = [False] * len(names)
    return {
        "loose_eval": evaluation(known, response, list(followed)),
        "strict_eval": evaluation(known, response, list(followed)),
    }


def check(benchmark: Benchmark, data_dir: Path | None) -> None:
    """Raises ConfigError if the benchmark needs punkt data and there are none. Bundled benchmarks need none."""
    if benchmark.source != "bundled":
        require_punkt(data_dir)
