"""What a section works with: the plan, the device, the time that is left, and where its findings go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from trimode.bench.gpu.plan import Plan
from trimode.bench.gpu.records import Condition, Findings, Note, Record, append


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One section of the measurement."""

    plan: Plan
    device: torch.device
    deadline: float
    """Of `time.monotonic`. No measurement begins after it."""
    file: Path
    """Where the findings of this section go."""
    earlier: Findings
    """Those of the sections before it."""
    conditions: dict[str, Condition] = field(default_factory=dict)
    """Stand in every record from now on."""

    def record(self, record: Record) -> Record:
        """Writes and prints a record. Returns it with the section's conditions."""
        values = {name: getattr(record, name) for name in Record.__slots__}
        full = Record(**(values | {"conditions": self.conditions | dict(record.conditions)}))
        append(self.file, full)
        print(line(full), flush=True)
        return full

    def note(self, kind: str, text: str) -> None:
        """Writes and prints a note."""
        append(self.file, Note(kind=kind, text=text))
        print(f"{kind}: {text}", flush=True)

    def is_out_of_time(self, what: str) -> bool:
        """Returns True, and says that `what` is left out, if the section's time is over."""
        if time.monotonic() < self.deadline:
            return False
        self.note("cut", f"{what}: left out, the section's time is over")
        return True

    def guarded(self, what: str, measure: Callable[[], object]) -> None:
        """Runs one measurement. If it fails, that is noted, and the section goes on."""
        if self.is_out_of_time(what):
            return
        try:
            measure()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0][:300]
            self.note("failure", f"{what}: {type(error).__name__}: {first}")
            if self.plan.dry:
                raise
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # a device that is lost raises here, which ends the section

    def rate(self, name: str) -> float | None:
        """Returns a ceiling in units per second, None if it was not measured."""
        return self.earlier.value(name)

    def memory_rate(self) -> float | None:
        """Returns the faster of the measured rates of reading and copying in bytes per second, None without one."""
        rates = [rate for rate in map(self.rate, ("read rate", "copy rate")) if rate is not None]
        return max(rates, default=None)


def line(record: Record) -> str:
    """Returns a record as one line for people."""
    parts = [f"{record.name} {record.value:.4g} {record.unit}"]
    if record.share is not None:
        parts.append(f"{record.share:.0%} of {record.bound_by}")
    if record.ratio is not None:
        parts.append(f"{record.ratio:.2f}x {record.rival}")
    parts.append(", ".join(f"{name} {value}" for name, value in record.conditions.items()))
    return " | ".join(part for part in parts if part)
