"""The records of drills as text: a table per kind, and what was not clean."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence

from trimode.bench.drills.drill import Record
from trimode.bench.drills.strikes import KINDS

HEAD = (
    "kind",
    "drills",
    "runs",
    "lost",
    "doubled",
    "wrong verdicts",
    "other differences",
    "hangs",
    "tokens regenerated (mean, most)",
    "typed by hand",
    "processes left",
    "files left",
    "when hit",
)


def as_markdown(records: Sequence[Record], command: str, made: str) -> str:
    """Returns the page of results. `made`: when and on what it was measured."""
    lines = ["# Drills on Slurm", "", made, "", f"    {command}", ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    kinds = [kind for kind in KINDS if any(record.kind == kind for record in records)]
    lines += ["| " + " | ".join(_row(kind, [r for r in records if r.kind == kind])) + " |" for kind in kinds]
    lines.append("| " + " | ".join(_row("all", list(records))) + " |")
    lines += ["", *(f"- {kind}: {KINDS[kind].says}." for kind in kinds)]
    if notes := [line for record in records for line in describe(record)]:
        lines += ["", "What was not clean, or is worth a note:", "", *(f"- {line}" for line in notes)]
    return "\n".join(lines) + "\n"


def _row(kind: str, records: list[Record]) -> list[str]:
    found = [record.found for record in records if record.found is not None]
    strikes = sum(len(record.phases) for record in records)
    phases = Counter(phase for record in records for phase in record.phases)
    tokens = [record.regenerated for record in records if record.found is not None]
    mean = sum(tokens) / strikes if strikes else 0.0
    return [
        kind,
        str(strikes),
        str(len(records)),
        str(sum(item.lost for item in found)),
        str(sum(item.doubled for item in found)),
        str(sum(item.wrong_verdicts for item in found)),
        str(sum(item.other_rows for item in found)),
        str(len(records) - len(found)),
        f"{mean:.0f}, {max(tokens, default=0)}",
        str(sum(len(record.typed) for record in records)),
        str(sum(len(record.left_processes) for record in records)),
        str(sum(len(record.left_files) for record in records)),
        ", ".join(f"{phase} {count}" for phase, count in sorted(phases.items())),
    ]


def describe(record: Record) -> list[str]:
    """Returns what is to be said of one drill, beside its numbers."""
    where = f"{record.kind} ({record.mode}, seed {record.seed}, {', '.join(record.phases) or 'not hit'})"
    lines = [f"{where}: {note}" for note in record.notes]
    if record.found is not None and record.found.details:
        lines.append(f"{where}: {'; '.join(record.found.details[:5])}")
    lines += [f"{where}: left: {name}" for name in (*record.left_processes, *record.left_files)]
    if record.typed and not KINDS[record.kind].by_hand:
        lines.append(f"{where}: typed by hand: {', '.join(record.typed)}")
    return lines


def machine() -> str:
    """Returns this machine in a few words."""
    return f"{os.cpu_count()} CPU cores, Linux {platform.release()}, Python {platform.python_version()}"
