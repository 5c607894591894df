"""The samples as the page reads them: a small index at once, and texts in packed chunks on demand.

All of it is data: the page writes it with textContent, never as markup.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.analysis.runs import Key
from trimode.pipeline.analysis.summary import num_tokens
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data.prompts import user_message
from trimode.pipeline.report.html.series import Series
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.scoring.verdicts import expected, is_right, predicted

PROBLEMS_PER_CHUNK = 64
MAX_TEXT = 12_000
"""Most characters of one text in the page. A longer one keeps both ends and says how much is missing."""
SHORT = 80
"""Most characters of an answer in the list."""


@dataclass(slots=True)
class SampleBook:
    """Everything that the browser of samples reads."""

    index: dict[str, object]
    """Columns over samples (one entry per answer) and the names they refer to."""
    chunks: list[str] = field(default_factory=list)
    """Packed texts: base64 of gzip of a JSON list of problems."""


def make_sample_book(series: Sequence[Series]) -> SampleBook:
    """Collects all answers of all runs; the answers to one problem and seed are neighbours."""
    problems = _problems(series)
    columns: dict[str, list[object]] = {name: [] for name in _COLUMNS}
    texts: list[dict[str, object]] = []
    names = sorted({benchmark for benchmark, _ in problems})
    for number, ((benchmark, key), answers) in enumerate(sorted(problems.items())):
        verdicts = [is_right(task_benchmark, row) for _, task_benchmark, row, _ in answers]
        _, facts, first_row, _ = answers[0]
        for (run, _, row, record), right in zip(answers, verdicts, strict=True):
            entry = _entry(row, record)
            entry |= {"b": names.index(benchmark), "r": run, "i": key[0], "s": key[1], "q": number}
            entry |= {"ok": int(right), "f": int(len(set(verdicts)) > 1)}
            for name in _COLUMNS:
                columns[name].append(entry[name])
        texts.append(
            {
                "prompt": clip(_prompt(facts, first_row)),
                "expected": clip(expected(first_row)),
                "answers": [_answer(facts, row, record) for _, _, row, record in answers],
            }
        )
    index: dict[str, object] = {
        "runs": [{"name": s.name, "slot": s.slot} for s in series],
        "benchmarks": names,
        "perChunk": PROBLEMS_PER_CHUNK,
        **columns,
    }
    return SampleBook(
        index, [_pack(texts[i : i + PROBLEMS_PER_CHUNK]) for i in range(0, len(texts), PROBLEMS_PER_CHUNK)]
    )


_COLUMNS = ("b", "r", "i", "s", "q", "ok", "f", "t", "n", "a", "sec", "end", "p", "e")
"""Columns of the index, under the names that page.js reads: benchmark, run, sample id, seed, problem number, right,
flip, tokens, nfe, mean accepted, seconds, finish reason, predicted, expected."""

Answer = tuple[int, Benchmark, Row, NfeRecord | None]
"""(run number, benchmark, scored row, its ledger line)."""


def _problems(series: Sequence[Series]) -> dict[tuple[str, Key], list[Answer]]:
    """Returns the answers by benchmark, sample and seed."""
    found: dict[tuple[str, Key], list[Answer]] = {}
    for number, s in enumerate(series):
        for name, task in s.run.tasks.items():
            for key, row in task.rows.items():
                found.setdefault((name, key), []).append((number, task.benchmark, row, task.records.get(key)))
    return found


def _entry(row: Row, record: NfeRecord | None) -> dict[str, object]:
    """What the list shows of one answer."""
    accepted = record.cost.acceptance_lengths if record else []
    return {
        "t": int(num_tokens(row)),
        "n": record.cost.nfe if record else None,
        "a": round(sum(accepted) / len(accepted), 2) if accepted else None,
        "sec": round(record.cost.total_s - record.cost.queue_s, 3) if record else None,
        "end": str(record.finish_reason if record else row.get("finish_reason") or ""),
        "p": _short(predicted(row)),
        "e": _short(expected(row)),
    }


def _answer(benchmark: Benchmark, row: Row, record: NfeRecord | None) -> dict[str, object]:
    """What the detail view shows of one answer."""
    answer: dict[str, object] = {
        "text": clip(str(row.get("_full_generation") or row.get(benchmark.generation_key) or "")),
        "predicted": clip(predicted(row)),
    }
    if row.get("scoring_error"):
        answer["scoringError"] = clip(str(row["scoring_error"]))
    if record is not None:
        answer["ledger"] = {
            "forwards": {kind: count for kind, count in record.cost.forwards.items() if count},
            "accepted": record.cost.acceptance_lengths,
            "prompt": record.cost.prompt_tokens,
            "queue": round(record.cost.queue_s, 3),
            "first": round(record.cost.first_token_s, 3),
            "total": round(record.cost.total_s, 3),
            "error": record.error,
        }
    return answer


def _prompt(benchmark: Benchmark, row: Row) -> str:
    """Returns the user turn, or the bare problem if the row lacks a field of the prompt."""
    try:
        return user_message(benchmark, row)
    except ConfigError:
        return str(row.get("problem") or row.get("question") or "")


def clip(text: str) -> str:
    """Returns `text`, or both its ends with a line between them that says how much is left out."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    gap = f"[… {len(text) - 2 * half} characters left out; all of them are in the output file …]"
    return f"{text[:half]}\n{gap}\n{text[-half:]}"


def _short(text: str) -> str:
    line = " ".join(text[: 4 * SHORT].split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def _pack(problems: list[dict[str, object]]) -> str:
    """Packs problems with gzip, without a time stamp, so that the same samples give the same page."""
    data = json.dumps(problems, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode("ascii")
