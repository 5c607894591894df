"""All figures of the page in reading order, and those of accuracy: against cost, and by benchmark.

Each function returns one Panel, or None if there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from trimode.pipeline.report.html.cost_figures import (
    acceptance_by_position,
    acceptance_lengths,
    forwards_by_kind,
    nfe_per_token,
    time_by_phase,
    tokens_per_answer,
)
from trimode.pipeline.report.html.series import Series, benchmarks_of, shared_benchmarks
from trimode.pipeline.report.html.svg import INK, MARKERS, PAPER, SERIES, Drawing, Panel, legend_below, page_style


def draw_panels(series: Sequence[Series]) -> list[Panel]:
    """Draws every figure for which there are data, in reading order."""
    drawers: tuple[Callable[[Sequence[Series]], Panel | None], ...] = (
        accuracy_against_tpf,
        accuracy_against_speed,
        accuracy_by_benchmark,
        nfe_per_token,
        acceptance_lengths,
        acceptance_by_position,
        forwards_by_kind,
        time_by_phase,
        tokens_per_answer,
    )
    if not series:
        return []
    with page_style():
        return [panel for draw in drawers if (panel := draw(series)) is not None]


def accuracy_against_tpf(series: Sequence[Series]) -> Panel | None:
    """Accuracy over tokens per forward."""
    return _frontier(series, "tpf", "tokens per forward (TPF)", "tpf", "Accuracy against tokens per forward")


def accuracy_against_speed(series: Sequence[Series]) -> Panel | None:
    """Accuracy over tokens per second."""
    return _frontier(series, "tokens_per_second", "tokens per second, one stream", "speed", "Accuracy against speed")


def _frontier(series: Sequence[Series], measure: str, axis: str, name: str, title: str) -> Panel | None:
    """A large marker per mode (mean over shared benchmarks, 95 % intervals), a small one per benchmark."""
    shared = shared_benchmarks(series)
    drawing = Drawing()
    axes = drawing.figure.subplots()
    drawn = 0
    for s in series:
        color, marker = SERIES[s.slot], MARKERS[s.slot]
        for benchmark in s.rows if len(shared) > 1 or not shared else ():
            x, y = s.point(measure, benchmark), s.point("accuracy", benchmark)
            if x is not None and y is not None:
                (dot,) = axes.plot(x.value, y.value, marker, color=color, markersize=4.5, alpha=0.45, mew=0)
                drawing.tip(dot, f"{s.name}, {benchmark}: {y.value:.1f} % at {x.value:.2f}")
        x, y = s.mean(measure, shared), s.mean("accuracy", shared)
        if x is None or y is None:
            continue
        drawn += 1
        axes.errorbar(x.value, y.value, xerr=x.errors, yerr=y.errors, fmt="none", ecolor=color, elinewidth=1.4)
        (dot,) = axes.plot(
            x.value,
            y.value,
            marker,
            color=color,
            markersize=10,
            markeredgecolor=PAPER,
            markeredgewidth=1.2,
            label=s.short_name,
        )
        drawing.tip(dot, f"{s.name}: {y.value:.2f} % at {x.value:.2f}")
        if s.quoted is not None and measure == "tpf":
            (ring,) = axes.plot(
                s.quoted.mean_tpf, s.quoted.mean_accuracy, marker, markersize=9, markerfacecolor="none",
                markeredgecolor=color, linestyle="none",
            )  # fmt: skip
            drawing.tip(ring, f"quoted: {s.quoted.mean_accuracy:.2f} % at TPF {s.quoted.mean_tpf:.2f}")
    if not drawn:
        return None
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy, %")
    axes.set_xlim(left=0)
    legend_below(axes)
    over = f"mean of {len(shared)} benchmarks" if len(shared) > 1 else shared[0]
    note = f"Large marks: {over} with 95 % intervals." + (" Small marks: single benchmarks." if len(shared) > 1 else "")
    if measure == "tpf" and any(s.quoted for s in series):
        note += " Hollow marks: quoted from the paper (its ten benchmarks)."
    return Panel(name, title, drawing.to_svg(name, title), note)


def accuracy_by_benchmark(series: Sequence[Series]) -> Panel | None:
    """Every accuracy with its interval, benchmarks from the top, runs side by side in each."""
    names = benchmarks_of(series)
    drawing = Drawing(height=max(3.4, 1.2 + 0.13 * len(names) * (len(series) + 1)))
    axes = drawing.figure.subplots()
    for number, s in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 0.8 / len(series)
        known = [(place, s.rows[name]) for place, name in enumerate(names) if name in s.rows]
        known = [(place, row) for place, row in known if row.accuracy is not None]
        if not known:
            continue
        at = np.array([row.accuracy for _, row in known], dtype=np.float64)
        low = np.array([row.accuracy_low for _, row in known], dtype=np.float64)
        high = np.array([row.accuracy_high for _, row in known], dtype=np.float64)
        places = np.array([place + shift for place, _ in known])
        axes.errorbar(
            at, places, xerr=[np.maximum(at - low, 0), np.maximum(high - at, 0)], fmt=MARKERS[s.slot],
            color=SERIES[s.slot], markersize=5, elinewidth=1.4, label=s.short_name,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("accuracy, %")
    legend_below(axes)
    title = "Accuracy by benchmark"
    note = "With 95 % intervals. Modes answer the same problems: overlap here does not mean no difference, see compare."
    return Panel("benchmarks", title, drawing.to_svg("benchmarks", title), note)
