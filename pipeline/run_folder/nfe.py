"""The NFE ledger: one line of nfe_log.jsonl per scored sample, and the figures that follow from the lines.

Knows nothing of scoring, HTTP or models; reads and writes plain JSON lines.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ERROR = "error"
"""finish_reason of a sample that got no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NfeRecord:
    """What one scored sample cost; field by field a line of nfe_log.jsonl."""

    request_id: str
    benchmark: str
    sample_id: int
    """Row index in the benchmark's split, from 0."""
    seed: int
    mode: str
    lora: bool
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    """stop | length | error."""
    forwards: dict[str, int] = field(default_factory=dict)
    """Model calls by kind."""
    nfe: int = 0
    acceptance_lengths: list[int] = field(default_factory=list)
    """linear_spec: tokens committed per verify."""
    queue_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    error: str | None = None
    """Why there is no answer; None when there is one."""

    @property
    def key(self) -> tuple[str, int, int]:
        """(benchmark, seed, sample_id): at most one line of a run folder has it."""
        return self.benchmark, self.seed, self.sample_id

    def to_line(self) -> str:
        """The record as one JSON line, newline included."""
        return json.dumps(self.to_json()) + "\n"

    def to_json(self) -> dict[str, object]:
        """The record as a dict; its lists are not copied."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> NfeRecord:
        """The record of a parsed line; unknown keys are dropped. Raises TypeError when a required key is missing."""
        return cls(**{key: item for key, item in value.items() if key in FIELDS})  # type: ignore[arg-type]


FIELDS = tuple(item.name for item in dataclasses.fields(NfeRecord))


def read_nfe_log(path: Path) -> list[NfeRecord]:
    """Every whole line of a log, in order; a torn last line is left out, a missing file is an empty log."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [NfeRecord.from_json(json.loads(line)) for line in lines[:-1] if line]


def read_run_ledger(run_dir: Path) -> dict[tuple[str, int, int], NfeRecord]:
    """All records of a run folder by key, over the logs of its jobs; of two with one key, one with an answer wins."""
    ledger: dict[tuple[str, int, int], NfeRecord] = {}
    for path in sorted(run_dir.glob("nfe_group*/nfe_log.jsonl")):
        for record in read_nfe_log(path):
            earlier = ledger.get(record.key)
            if earlier is None or earlier.error is not None:
                ledger[record.key] = record
    return ledger


def summarize(records: Iterable[NfeRecord]) -> dict[str, float | int | None]:
    """average_nfe, nfe_count, tpf, tpf_total and tokens_per_second over the samples that got an answer.

    Ratios of sums: tpf = tokens / nfe, tpf_total = tokens / forwards of every kind, tokens_per_second = tokens /
    seconds from first forward to end (the speed one stream sees). A ratio over nothing is None.
    """
    answered = [record for record in records if record.error is None]
    tokens = sum(record.completion_tokens for record in answered)
    nfe = sum(record.nfe for record in answered)
    forwards = sum(sum(record.forwards.values()) for record in answered)
    seconds = sum(record.total_s - record.queue_s for record in answered)
    return {
        "average_nfe": round(nfe / len(answered), 4) if answered else None,
        "nfe_count": len(answered),
        "tpf": round(tokens / nfe, 4) if nfe else None,
        "tpf_total": round(tokens / forwards, 4) if forwards else None,
        "tokens_per_second": round(tokens / seconds, 2) if seconds > 0 else None,
    }
