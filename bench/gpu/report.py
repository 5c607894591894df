"""The findings as one JSON file and as a page of tables. Nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trimode.bench.gpu.goals import Judged, judge
from trimode.bench.gpu.records import Findings, Record

DRY_RUN = "THIS WAS A DRY RUN on a CPU at a tiny size: every figure below means nothing."
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one section ended."""

    name: str
    seconds: float
    status: str
    """`done`, `failed` or `stopped` (its time was over)."""


def write(folder: Path, found: Findings, sections: Sequence[Ended], *, dry: bool) -> tuple[Path, Path]:
    """Writes gpu.json and gpu.md into the folder and returns their paths."""
    goals = judge(found)
    content = {
        "schema": SCHEMA,
        "dry_run": dry,
        "sections": [asdict(section) for section in sections],
        "records": [asdict(record) for record in found.records],
        "notes": [asdict(note) for note in found.notes],
        "goals": [asdict(goal) | {"met": None if dry else goal.met} for goal in goals],
    }
    as_json, as_page = folder / "gpu.json", folder / "gpu.md"
    as_json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    as_page.write_text(page(found, sections, goals, dry=dry), encoding="utf-8")
    return as_json, as_page


def page(found: Findings, sections: Sequence[Ended], goals: Sequence[Judged], *, dry: bool) -> str:
    """Returns the Markdown page."""
    parts = ["# The GPU path, measured with bench/gpu.sh"]
    if dry:
        parts.append(f"**{DRY_RUN}**")
    for title, kinds in (("Machine", ("fact",)), ("Left out or failed", ("cut", "failure"))):
        texts = [note.text for note in found.notes if note.kind in kinds]
        parts.append(f"## {title}\n\n" + ("\n".join(f"- {text}" for text in texts) or "Nothing."))
    parts.append("## Sections\n\n" + _table(("section", "seconds", "ended"), _section_rows(sections)))
    header = ("goal", "target", "measured", "where", "")
    parts.append("## Goals\n\n" + _table(header, [goal_row(goal, dry=dry) for goal in goals]))
    names = dict.fromkeys(record.name for record in found.records)
    parts += [f"## {name}\n\n" + records_table(found.find(name)) for name in names]
    profiles = [note.text for note in found.notes if note.kind == "profile"]
    if profiles:
        parts.append("## Where the time goes\n\n" + "\n".join(f"- {text}" for text in profiles))
    return "\n\n".join(parts) + "\n"


def goal_row(goal: Judged, *, dry: bool) -> tuple[str, ...]:
    """Returns a goal's cells; a dry run judges none."""
    verdict = {True: "met", False: "missed", None: "not measured"}[goal.met]
    got = "" if goal.got is None else number(goal.got)
    limit = ("<= " if goal.at_most else ">= ") + number(goal.target)
    return goal.goal, limit, got, goal.where, "not judged: dry run" if dry else verdict


def records_table(records: Sequence[Record]) -> str:
    """Returns all records of one name as a table: their conditions, then their numbers; empty columns are left out."""
    names = list(dict.fromkeys(name for record in records for name in record.conditions))
    columns = [(name, [str(record.conditions.get(name, "")) for record in records]) for name in names]
    unit = records[0].unit
    columns += [
        (unit, [number(record.value) for record in records]),
        (f"bound, {unit}", [number(record.bound) for record in records]),
        ("bound by", [record.bound_by or "" for record in records]),
        ("reached", ["" if record.share is None else f"{record.share:.0%}" for record in records]),
        ("rival", [record.rival or "" for record in records]),
        (f"rival, {unit}", [number(record.rival_value) for record in records]),
        ("trimode is", ["" if record.ratio is None else f"{record.ratio:.2f}x" for record in records]),
    ]
    shown = [(name, cells) for name, cells in columns if any(cells)]
    return _table([name for name, _ in shown], zip(*(cells for _, cells in shown), strict=True))


def number(value: float | None) -> str:
    """Returns a number with four digits, "" for None."""
    return "" if value is None else f"{value:.4g}"


def _section_rows(sections: Sequence[Ended]) -> list[tuple[str, ...]]:
    return [(section.name, f"{section.seconds:.1f}", section.status) for section in sections]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
