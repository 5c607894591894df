"""Picks the two sides of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode
from trimode.pipeline.analysis.gate import Gate
from trimode.pipeline.analysis.run_names import run_names
from trimode.pipeline.analysis.runs import Run


@dataclass(frozen=True, slots=True)
class Sides:
    """Two runs to compare, and the names that a gate may use for them."""

    a: Run
    b: Run
    name_a: str
    name_b: str
    from_two_folders: bool
    """True if a is from the first folder and b from the second."""


def select_sides(
    sweep_a: list[Run], sweep_b: list[Run] | None, modes: Sequence[str] | None, gate: Gate | None
) -> list[Sides]:
    """Returns the pairs to compare. Raises ConfigError if a name fits no run or several, or if there is no pair."""
    sweep_a = _with_answers(sweep_a)
    sweep_b = None if sweep_b is None else _with_answers(sweep_b)
    if modes is None and gate is not None and {gate.left, gate.right} != {"a", "b"}:
        modes = (gate.left, gate.right)
    if sweep_b is not None:
        return _select_across(sweep_a, sweep_b, modes)
    if modes is not None:
        return [Sides(find_run(sweep_a, modes[0]), find_run(sweep_a, modes[1]), modes[0], modes[1], False)]
    reference = find_run(sweep_a, Mode.ar.value)
    others = [run for run in sweep_a if run is not reference]
    if not others:
        raise ConfigError("nothing to compare: the folder holds one run; give a second folder")
    return [
        Sides(run, reference, name, reference.label, False) for name, run in zip(run_names(others), others, strict=True)
    ]


def _with_answers(sweep: list[Run]) -> list[Run]:
    """Returns the runs that hold answers; all of them if none does. A run that failed at its start is no rival."""
    return [run for run in sweep if any(task.rows for task in run.tasks.values())] or sweep


def _select_across(sweep_a: list[Run], sweep_b: list[Run], modes: Sequence[str] | None) -> list[Sides]:
    """Returns the pairs between two folders."""
    if modes is not None and modes[0] != modes[1]:
        return [Sides(find_run(sweep_a, modes[0]), find_run(sweep_b, modes[1]), modes[0], modes[1], True)]
    if modes is not None:
        labels = [modes[0]]
    elif len(sweep_a) == len(sweep_b) == 1:
        return [_across(sweep_a[0], sweep_b[0])]
    else:
        labels = [label for label in dict.fromkeys(r.label for r in sweep_a) if label in {r.label for r in sweep_b}]
    if not labels:
        held = [", ".join(sorted({run.label for run in sweep})) for sweep in (sweep_a, sweep_b)]
        raise ConfigError(f"no mode is in both folders: A holds {held[0]}; B holds {held[1]}; name two with --modes")
    return [_across(find_run(sweep_a, label), find_run(sweep_b, label)) for label in labels]


def _across(a: Run, b: Run) -> Sides:
    """Returns a pair from two folders, named by side and label."""
    return Sides(a, b, f"a: {a.label}", f"b: {b.label}", True)


def find_run(sweep: list[Run], name: str) -> Run:
    """Returns the run labelled `name`, else the only run of that mode, else the run of that name or in that folder.

    Names are those of a report, such as `dlm (block 8)`. A folder may be named by the end of its path, whole parts
    only. Raises ConfigError unless exactly one run fits.
    """
    found = (
        [run for run in sweep if run.label == name]
        or [run for run in sweep if run.mode.value == name]
        or [run for run, full in zip(sweep, run_names(sweep), strict=True) if full == name]
        or [run for run in sweep if _is_folder(run.path, name)]
    )
    if len(found) == 1:
        return found[0]
    known = {id(run): full for run, full in zip(sweep, run_names(sweep), strict=True)}
    if found:
        places = "".join(f"\n  {known[id(run)]}, in {folder_name(run, sweep)}: {run.path}" for run in found)
        raise ConfigError(f"{len(found)} runs are called {name!r}; name one as here (--modes A B):{places}")
    held = "".join(f"\n  {known[id(run)]}, in {folder_name(run, sweep)}" for run in sweep)
    raise ConfigError(f"no run is called {name!r}; valid: a mode or a run folder, of these:{held}")


def _is_folder(path: Path, name: str) -> bool:
    """True if `name` is the end of the path of a run folder, or of the folder of its sweep (two levels above)."""
    parts = Path(name).parts
    ends = (path.parts, path.resolve().parts, path.parents[1].parts)
    return bool(parts) and (Path(name).resolve() == path.resolve() or any(end[-len(parts) :] == parts for end in ends))


def folder_name(run: Run, sweep: Sequence[Run]) -> str:
    """Returns the shortest end of a run's path that no other run of the sweep shares."""
    parts = run.path.parts
    for length in range(1, len(parts)):
        name = str(Path(*parts[-length:]))
        if sum(_is_folder(other.path, name) for other in sweep) == 1:
            return name
    return str(run.path)
