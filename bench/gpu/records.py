"""What a section finds out: one JSON line per measurement or note, written at once, so that a killed section keeps it.

The parent process reads these lines; nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

Condition = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured value."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    """The best possible value in the same unit, from counted bytes and operations; None if none is counted."""
    bound_by: str | None = None
    """What the bound was computed from, for example `bytes`."""
    share: float | None = None
    """How much of the bound is reached, 0 to 1."""
    rival: str | None = None
    """What else was measured in the same run."""
    rival_value: float | None = None
    """The rival's value in the same unit."""
    ratio: float | None = None
    """How many times trimode is faster than the rival."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    def has(self, **conditions: Condition) -> bool:
        """Returns True if the record was measured under these conditions, and perhaps others."""
        return all(self.conditions.get(name) == value for name, value in conditions.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something to be said that is no number."""

    kind: str
    """`fact` (of the machine), `cut` (left out for lack of time), `failure` or `profile`."""
    text: str


@dataclass(frozen=True, slots=True)
class Findings:
    """The records and notes of one or more sections."""

    records: list[Record]
    notes: list[Note]

    def find(self, name: str, **conditions: Condition) -> list[Record]:
        """Returns the records of a name that were measured under these conditions."""
        return [record for record in self.records if record.name == name and record.has(**conditions)]

    def value(self, name: str, **conditions: Condition) -> float | None:
        """Returns the value of the first such record, None if there is none."""
        found = self.find(name, **conditions)
        return found[0].value if found else None


def append(path: Path, item: Record | Note) -> None:
    """Adds one line to a file of findings."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({type(item).__name__.lower(): asdict(item)}) + "\n")


def read(paths: Iterable[Path]) -> Findings:
    """Returns the findings in files. A missing file holds none, and a line that is cut off at its end is left out."""
    found = Findings([], [])
    for path in paths:
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue  # the section was killed while it wrote
            if "record" in content:
                found.records.append(Record(**content["record"]))
            else:
                found.notes.append(Note(**content["note"]))
    return found
