"""An operator beside its rivals and its bound, on inputs that change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.records import Condition, Record
from trimode.bench.gpu.timing import Call, Timing, time_calls

MAX_INPUTS = 32
"""Most sets of inputs that take turns."""
MICROSECONDS = 1e6
OURS = "trimode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of an operator at one size."""

    name: str
    num_bytes: int
    """The fewest that it must read and write: every input once, every output once."""
    flop: float = 0.0
    """Operations of its matrix products."""
    fp8: bool = False
    """True if these run on the 8-bit units."""
    spend: float = 1.0
    """Of the plan's time per number."""
    make: Callable[[], Mapping[str, Call]]
    """Makes a set of inputs. Returns the calls on it: `trimode`, and one per rival."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)


def compare(bench: Bench, case: Case, known: Mapping[str, Timing] = MappingProxyType({})) -> list[Record]:
    """Measures a case. Writes one record per rival, or one without a rival if there is none.

    Args:
        bench: the section.
        case: what to measure.
        known: rivals that were measured before.
    """
    wanted = bench.plan.fill_bytes // max(1, case.num_bytes) + 1
    inputs = [case.make() for _ in range(min(MAX_INPUTS, wanted))]
    timed = dict(known)
    for name in inputs[0]:
        try:
            timed[name] = time_calls([calls[name] for calls in inputs], bench.device, case.spend * bench.plan.spend_s)
        except Exception as error:
            if name == OURS or bench.plan.dry:
                raise
            bench.note(
                "failure", f"{case.name}, {name}, {dict(case.conditions)}: {type(error).__name__}: {error}"[:300]
            )
    ours = timed.pop(OURS)
    rivals: list[str | None] = list(timed) or [None]
    return [bench.record(_record(bench, case, ours, rival, timed.get(rival or ""))) for rival in rivals]


def _record(bench: Bench, case: Case, ours: Timing, rival: str | None, theirs: Timing | None) -> Record:
    bound, by = bound_of(bench, case)
    how = ours.how if theirs is None or theirs.how == ours.how else f"{ours.how}, rival {theirs.how}"
    return Record(
        name=case.name,
        value=ours.seconds * MICROSECONDS,
        unit="us",
        bound=None if bound is None else bound * MICROSECONDS,
        bound_by=by,
        share=None if bound is None else bound / ours.seconds,
        rival=rival,
        rival_value=None if theirs is None else theirs.seconds * MICROSECONDS,
        ratio=None if theirs is None else theirs.seconds / ours.seconds,
        conditions=dict(case.conditions) | {"timed": how},
    )


def bound_of(bench: Bench, case: Case) -> tuple[float | None, str | None]:
    """Returns the least seconds that the card needs, and whether bytes or operations decide it."""
    memory = bench.memory_rate()
    matmul = bench.rate("matmul rate fp8" if case.fp8 else "matmul rate")
    if memory is None:
        return None, None
    by_bytes = case.num_bytes / memory
    by_flop = case.flop / matmul if matmul else 0.0
    return max((by_bytes, "bytes"), (by_flop, "operations"))
