"""The NFE ledger: one line of nfe_log.jsonl per scored sample, and the totals that follow from the lines."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, TypeVar

from trimode.core.errors import ConfigError
from trimode.core.protocol import COST_FIELDS, OPTIONAL_COSTS, Cost, Mode

K = TypeVar("K", bound=Hashable)

MODES = frozenset(mode.value for mode in Mode)
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
    finish_reason: str
    """stop | length | error."""
    cost: Cost
    error: str | None = None
    """Why there is no answer; None if there is one."""

    @property
    def key(self) -> tuple[str, int, int]:
        """(benchmark, seed, sample_id): at most one line of a log has it."""
        return self.benchmark, self.seed, self.sample_id

    def to_line(self) -> str:
        """Returns the record as one JSON line, newline included."""
        return json.dumps(self.to_json()) + "\n"

    def to_json(self) -> dict[str, object]:
        """Returns the keys of a line in their order; lists are not copied."""
        cost = self.cost.to_json()
        line = {key: cost[key] if key in cost else getattr(self, key) for key in LINE_KEYS}
        return line | {name: cost[name] for name in OPTIONAL_COSTS if name in cost}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> NfeRecord:
        """Returns the record of a parsed line without unknown keys.

        Raises TypeError if a required key is missing, or if a value is not of its kind.
        """
        own = {key: value[key] for key in LINE_KEYS if key in value and key not in COST_FIELDS}
        record = cls(cost=Cost.from_json(value), **own)  # type: ignore[arg-type]
        if damaged := [name for name, valid in _checks(record) if not valid]:
            raise TypeError(f"a ledger record has counts, seconds and a mode: got others in {', '.join(damaged)}")
        return record


def _checks(record: NfeRecord) -> Iterator[tuple[str, bool]]:
    """Yields name and validity of every value that something is computed from."""
    cost = record.cost
    yield "mode", record.mode in MODES
    yield "benchmark", isinstance(record.benchmark, str)
    for name in ("sample_id", "seed"):
        yield name, is_count(getattr(record, name))
    for name in ("prompt_tokens", "completion_tokens", "continuations", "queue_s", "first_token_s", "total_s"):
        yield name, is_count(getattr(cost, name))
    yield "nfe", is_count(cost.nfe) or (cost.nfe is None and not cost.forwards)
    yield "forwards", isinstance(cost.forwards, dict) and all(map(is_count, cost.forwards.values()))
    for name in ("widths", "fixed_tokens"):
        value = getattr(cost, name)
        yield name, isinstance(value, dict) and all(map(is_count, value.values()))
    yield (
        "acceptance_lengths",
        isinstance(cost.acceptance_lengths, list) and all(map(is_count, cost.acceptance_lengths)),
    )


def is_count(value: object) -> TypeGuard[float]:
    """True if a value read from a file can be added up: a number from 0, neither NaN nor infinite."""
    return isinstance(value, int | float) and 0 <= value < 2**53


LINE_KEYS = (
    *("request_id", "benchmark", "sample_id", "seed", "mode", "lora", "prompt_tokens", "completion_tokens"),
    *("finish_reason", "forwards", "forwards_saved", "nfe", "acceptance_lengths"),
    *("queue_s", "first_token_s", "total_s", "error"),
)
"""Keys of a line, in their order. OPTIONAL_COSTS follow where there are any."""


def read_nfe_log(path: Path) -> list[NfeRecord]:
    """Returns the records of a log in order. A torn last line is left out; a missing file is an empty log.

    Raises ConfigError naming a line that is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").removeprefix("\ufeff").split("\n")
    return [_parsed(line, path, number) for number, line in enumerate(lines[:-1], 1) if line]


def _parsed(line: str, path: Path, number: int) -> NfeRecord:
    try:
        value = json.loads(line)
        if not isinstance(value, dict):
            raise TypeError(f"got {type(value).__name__}; valid: an object")
        return NfeRecord.from_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: line {number} is no record of the ledger: {error}. Restore the file, or remove the line: then "
            "its sample keeps its answer and has no costs"
        ) from error


def add_record(ledger: dict[K, NfeRecord], key: K, record: NfeRecord) -> bool:
    """Adds a later record by the one rule: of two with one key the one with an answer wins, and the first of two.

    Returns True if `record` is the one that counts now.
    """
    earlier = ledger.get(key)
    if earlier is not None and earlier.error is None:
        return False
    ledger[key] = record
    return True


def nfe_logs(run_dir: Path) -> list[Path]:
    """Returns the logs of all jobs of a run folder, sorted."""
    return sorted(run_dir.glob("nfe_group*/nfe_log.jsonl"))


def read_run_ledger(run_dir: Path) -> dict[tuple[str, int, int], NfeRecord]:
    """All records of a run folder by key. A sample may stand in the logs of several jobs; `add_record` decides."""
    ledger: dict[tuple[str, int, int], NfeRecord] = {}
    for path in nfe_logs(run_dir):
        for record in read_nfe_log(path):
            add_record(ledger, record.key, record)
    return ledger


def summarize(records: Iterable[NfeRecord]) -> dict[str, float | int | None]:
    """Returns average_nfe, nfe_count, failed, tpf, tpf_total and tokens_per_second of samples.

    Every sample counts, as in the accuracy: one that got no answer adds nothing to any sum, and 1 to nfe_count and to
    failed. average_nfe = nfe / nfe_count. The others are ratios of sums: tpf = tokens / nfe, tpf_total = tokens /
    forwards of every kind, and tokens_per_second = tokens / seconds from first forward to end (the speed of one
    stream). x / 0 is None, and so is what needs the nfe of an answer whose server did not count it.
    """
    asked = list(records)
    answered = [record for record in asked if record.error is None]
    tokens = sum(record.cost.completion_tokens for record in answered)
    counted = all(record.cost.nfe is not None for record in answered)
    nfe = sum(record.cost.nfe or 0 for record in answered)
    forwards = sum(sum(record.cost.forwards.values()) for record in answered)
    seconds = sum(record.cost.total_s - record.cost.queue_s for record in answered)
    return {
        "average_nfe": round(nfe / len(asked), 4) if answered and counted else None,
        "nfe_count": len(asked),
        "failed": len(asked) - len(answered),
        "tpf": round(tokens / nfe, 4) if nfe and counted else None,
        "tpf_total": round(tokens / forwards, 4) if forwards else None,
        "tokens_per_second": round(tokens / seconds, 2) if seconds > 0 else None,
    }
