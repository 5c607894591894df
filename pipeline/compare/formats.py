"""Comparisons as text for people and JSON for machines."""

from __future__ import annotations

import io
import json
import statistics
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from trimode.pipeline.analysis.gate import Gate, Verdict
from trimode.pipeline.analysis.pairing import Flip, Pairing
from trimode.pipeline.analysis.text import signed_interval

WIDTH = 120
"""Columns of the text output."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on every benchmark they share."""

    name_a: str
    name_b: str
    same_text_expected: bool
    """True if greedy on both sides, and the same mode or two of ar, linear_spec and auto, which promise ar's text."""
    pairings: tuple[Pairing, ...]
    pooled: Pairing


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate with its verdicts."""

    gate: Gate
    verdict: Verdict
    """The overall verdict, which decides the exit status."""
    pooled: Verdict
    by_benchmark: dict[str, Verdict]


def as_text(comparisons: list[Comparison], gate: GateResult | None, num_listed: int) -> str:
    """Tables, flips and first differences (at most `num_listed` each per comparison), then the gate's verdict."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, highlight=False)
    for comparison in comparisons:
        console.print(_table(comparison))
        for line in failure_lines(comparison):
            console.print(line, soft_wrap=True, markup=False)
        _print_flips(console, comparison, num_listed)
        if comparison.same_text_expected:
            _print_divergences(console, comparison, num_listed)
    if gate is not None:
        rule = f"{gate.gate.left} >= {gate.gate.right} {'-' if gate.gate.margin < 0 else '+'} {abs(gate.gate.margin):g}"
        console.print(f"gate {rule}: {gate.verdict.value}", markup=False)
        parts = ", ".join(f"{name} {verdict.value}" for name, verdict in gate.by_benchmark.items())
        console.print(f"  all problems pooled {gate.pooled.value}; {parts}", soft_wrap=True, markup=False)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _table(comparison: Comparison) -> Table:
    """One line per benchmark and one for all of them."""
    title = f"{escape(comparison.name_a)} minus {escape(comparison.name_b)}, accuracy in percent, paired by problem"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold"
    )
    headings = (
        "Benchmark",
        "Problems",
        "A",
        "B",
        "A - B",
        "95 % interval",
        "Only A",
        "Only B",
        "McNemar p",
        "Detectable",
    )
    for index, heading in enumerate((*headings, "Identical")):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    pairings = list(comparison.pairings)
    for index, p in enumerate([*pairings, comparison.pooled] if len(pairings) > 1 else pairings):
        won_a, won_b = (sum(flip.winner == side for flip in p.flips) for side in ("a", "b"))
        table.add_row(
            escape(p.benchmark),
            str(p.num_problems),
            f"{p.accuracy_a:.2f}",
            f"{p.accuracy_b:.2f}",
            f"{p.difference:+.2f}",
            signed_interval(p.interval),
            str(won_a),
            str(won_b),
            "-" if p.mcnemar is None else f"{p.mcnemar.p_value:.3g}",
            "-" if p.detectable is None else f"{p.detectable:.2f}",
            f"{p.num_identical}/{p.num_answers}",
            end_section=index == len(pairings) - 1,
        )
    return table


def failure_lines(comparison: Comparison) -> list[str]:
    """Returns one line per kind of missing answer, over all compared benchmarks, that says how it is counted."""
    p, a, b = comparison.pooled, comparison.name_a, comparison.name_b
    lines = [f"{p.num_only_a} problems that {b} has not asked: left out."] if p.num_only_a else []
    lines += [f"{p.num_only_b} problems that {a} has not asked: left out."] if p.num_only_b else []
    lines += [f"{p.failed_both} samples have no answer on both sides: left out."] if p.failed_both else []
    for name, other, count in ((a, b, p.failed_a), (b, a, p.failed_b)):
        if count:
            lines.append(f"{count} samples that {other} answered have no answer of {name}: wrong for {name}.")
    return lines


def _print_flips(console: Console, comparison: Comparison, num_listed: int) -> None:
    flips = comparison.pooled.flips
    if not flips:
        console.print("No flips: both solve the same problems.\n")
        return
    console.print(f"{len(flips)} flips (solved by one side only){_more(len(flips), num_listed)}:")
    for flip in flips[:num_listed]:
        console.print(f"  {flip_line(flip, comparison)}", soft_wrap=True, markup=False)
    console.print()


def flip_line(flip: Flip, comparison: Comparison) -> str:
    """Returns one flip with both answers on one line."""
    names = [comparison.name_a, comparison.name_b]
    marks = ["right", "wrong"] if flip.winner == "a" else ["wrong", "right"]
    answers = [_one_line(flip.answer_a), _one_line(flip.answer_b)]
    sides = "; ".join(f"{n} {a!r} ({m})" for n, a, m in zip(names, answers, marks, strict=True))
    return f"{flip.benchmark} #{flip.sample_id} seed {flip.seed}: expected {_one_line(flip.expected)!r}; {sides}"


def _print_divergences(console: Console, comparison: Comparison, num_listed: int) -> None:
    found = comparison.pooled.divergences
    total = comparison.pooled.num_answers
    if not total:
        console.print("No sample has an answer on both sides, so no texts are compared.\n")
        return
    share = 100 * (total - len(found)) / total
    line = f"Same text in {total - len(found)} of {total} answers ({share:.2f} %)."
    if not found:
        console.print(line + "\n")
        return
    middle = statistics.median(d.position for d in found)
    console.print(f"{line} First difference at character {middle:g} (median){_more(len(found), num_listed)}:")
    for d in found[:num_listed]:
        where = f"{d.benchmark} #{d.sample_id} seed {d.seed}, character {d.position}"
        console.print(
            f"  {where}: {comparison.name_a} {_one_line(d.text_a)!r}; {comparison.name_b} {_one_line(d.text_b)!r}",
            soft_wrap=True,
            markup=False,
        )
    console.print()


def as_json(comparisons: list[Comparison], gate: GateResult | None) -> str:
    """Returns {comparisons: [...], gate: {...} | null}, with every flip and every divergence."""
    value = {"comparisons": [_comparison_json(c) for c in comparisons], "gate": None if gate is None else asdict(gate)}
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _comparison_json(comparison: Comparison) -> dict[str, object]:
    return {
        "a": comparison.name_a,
        "b": comparison.name_b,
        "same_text_expected": comparison.same_text_expected,
        "benchmarks": [_pairing_json(p) for p in comparison.pairings],
        "pooled": _pairing_json(comparison.pooled),
    }


def _pairing_json(p: Pairing) -> dict[str, object]:
    return {
        "benchmark": p.benchmark,
        "num_problems": p.num_problems,
        "num_only_a": p.num_only_a,
        "num_only_b": p.num_only_b,
        "failed_both": p.failed_both,
        "failed_a": p.failed_a,
        "failed_b": p.failed_b,
        "accuracy_a": p.accuracy_a,
        "accuracy_b": p.accuracy_b,
        "difference": p.difference,
        "difference_low": p.interval.low,
        "difference_high": p.interval.high,
        "mcnemar": None if p.mcnemar is None else p.mcnemar._asdict(),
        "smallest_detectable_difference": p.detectable,
        "num_answers": p.num_answers,
        "num_identical": p.num_identical,
        "flips": [asdict(flip) for flip in p.flips],
        "divergences": [asdict(d) for d in p.divergences],
    }


def _more(count: int, listed: int) -> str:
    """Returns the remark of a list that shows only its first items; empty if it shows all."""
    return f", the first {listed} here" if count > listed else ""


def _one_line(text: str) -> str:
    """Returns the text cut to at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."
