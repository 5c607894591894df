"""`python -m trimode.pipeline.compare`: two modes, or two sweeps, problem by problem; with `--gate` a verdict for CI.

Exit status: 0 compared, and PASS if a gate was given; 1 REGRESS; 3 INCONCLUSIVE; 2 usage error.
The comparison goes to stdout, remarks go to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.core.command import UNREAD, run_command
from trimode.core.errors import ConfigError, guarded
from trimode.core.protocol import Mode
from trimode.pipeline.analysis.comparable import differences, mixed_code
from trimode.pipeline.analysis.gate import EXIT_STATUS, Gate, judge, overall, parse_gate
from trimode.pipeline.analysis.pairing import Pairing, pair, pool
from trimode.pipeline.analysis.runs import read_sweep
from trimode.pipeline.analysis.statistics import Interval
from trimode.pipeline.compare.formats import Comparison, GateResult, as_json, as_text
from trimode.pipeline.compare.sides import Sides, select_sides

DESCRIPTION = """Compare two modes of one sweep, or two sweeps, on the problems both have answered.

  compare DIR                            every other mode against ar
  compare DIR --modes linear_spec ar     these two (`linear_spec+lora` names the one with the adapter)
  compare DIR_A DIR_B                    every mode that both hold
  compare DIR --gate "linear_spec >= ar - 1.0"
                                         PASS when the whole 95 % interval of the difference (percent points, pooled
                                         over problems) is at or above -1.0, REGRESS when it is below, on the pool or
                                         on any one benchmark, else INCONCLUSIVE. With two folders the sides are also
                                         called a and b.

exit status: 0 compared / PASS, 1 REGRESS, 3 INCONCLUSIVE, 2 wrong usage or nothing to compare"""


def compare(sides: Sides, benchmarks: Sequence[str] | None = None) -> Comparison:
    """Compares both runs on every benchmark they share. Raises ConfigError if they share no answered problem."""
    shared = [name for name in sides.a.tasks if name in sides.b.tasks and (not benchmarks or name in benchmarks)]
    pairings = [p for name in shared if (p := pair(sides.a.tasks[name], sides.b.tasks[name])) is not None]
    if not pairings:
        held = [", ".join(run.tasks) or "nothing" for run in (sides.a, sides.b)]
        raise ConfigError(f"{sides.name_a} and {sides.name_b} share no answered problem: {held[0]} against {held[1]}")
    return Comparison(sides.name_a, sides.name_b, _same_text_expected(sides), tuple(pairings), pool(pairings))


def _same_text_expected(sides: Sides) -> bool:
    """True if both sides should give the same text: greedy, and the same mode or two that give ar's text."""
    jobs = [job for run in (sides.a, sides.b) for job in run.jobs]
    greedy = all(job.decode.temperature == 0 for job in jobs)
    return greedy and (sides.a.mode == sides.b.mode or Mode.dlm not in (sides.a.mode, sides.b.mode))


def judge_gate(gate: Gate, sides: list[Sides], comparisons: list[Comparison]) -> GateResult:
    """Judges the gate on the pair it names, in either order. Raises ConfigError if no compared pair has these names."""
    for side, comparison in zip(sides, comparisons, strict=True):
        names = [(side.name_a, side.name_b), (side.a.label, side.b.label), (side.a.mode.value, side.b.mode.value)]
        names += [("a", "b")] if side.from_two_folders else []
        for left, right in names:
            if (gate.left, gate.right) in ((left, right), (right, left)):
                forward = (gate.left, gate.right) == (left, right)
                verdicts = [judge(_oriented(p, forward), gate.margin) for p in comparison.pairings]
                pooled = judge(_oriented(comparison.pooled, forward), gate.margin)
                by_benchmark = {p.benchmark: v for p, v in zip(comparison.pairings, verdicts, strict=True)}
                return GateResult(gate, overall(pooled, verdicts), pooled, by_benchmark)
    raise ConfigError(
        f"the gate names {gate.left} and {gate.right}; compared: "
        + ", ".join(f"{side.name_a} and {side.name_b}" for side in sides)
    )


def _oriented(p: Pairing, forward: bool) -> Interval:
    """Returns the interval of left minus right: of the comparison itself if `forward`, else of its reverse.

    A gate must not pass because the right side has no answers: its low end takes them as right.
    """
    interval = p.interval if forward else Interval(-p.interval.high, -p.interval.low)
    return Interval(interval.low - (p.lost_b if forward else p.lost_a), interval.high)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trimode.pipeline.compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="one folder, or two: A and B")
    parser.add_argument("--modes", nargs=2, metavar=("A", "B"), help="the two to compare; A minus B is reported")
    parser.add_argument("--benchmarks", nargs="+", metavar="NAME", help="only these (default: all that both hold)")
    parser.add_argument("--gate", metavar="TEXT", help="'NAME >= NAME - POINTS'")
    parser.add_argument("--flips", type=int, default=10, metavar="N", help="flips and differences listed (default: 10)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    return parser


def run_compare(options: argparse.Namespace) -> int:
    """Everything after parsing. Returns the exit status. Raises ConfigError for usage errors."""
    if len(options.folders) > 2:
        raise ConfigError(f"compare takes one folder or two; got {len(options.folders)}")
    gate = parse_gate(options.gate) if options.gate else None
    sweeps = [read_sweep(folder) for folder in options.folders]
    sweep_b = sweeps[1][0] if len(sweeps) > 1 else None
    sides = select_sides(sweeps[0][0], sweep_b, options.modes, gate)
    comparisons = [compare(side, options.benchmarks) for side in sides]
    result = judge_gate(gate, sides, comparisons) if gate else None
    if options.format == "json":
        sys.stdout.write(as_json(comparisons, result))
    else:
        sys.stdout.write(as_text(comparisons, result, options.flips))
    remarks = [note for _, notes in sweeps for note in notes]
    for side in sides:
        remarks += [*mixed_code(side.a), *mixed_code(side.b), *differences((side.a, side.b))]
    for line in dict.fromkeys(remarks):
        print(f"note: {line}", file=sys.stderr)
    return EXIT_STATUS[result.verdict] if result else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    options = _parser().parse_args(argv)
    return guarded(lambda: run_compare(options))


if __name__ == "__main__":
    run_command(main, unfinished=UNREAD)
