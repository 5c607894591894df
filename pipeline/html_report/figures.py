"""The figures of the page: accuracy against cost, histograms of NFE and acceptance, and where the work went.

Knows no HTML around them; each function returns one Panel, or None when there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from trimode.pipeline.html_report.series import Series, shared_benchmarks
from trimode.pipeline.html_report.svg import GRID, INK, KINDS, MARKERS, MUTED, PAPER, SERIES, Drawing, house_style
from trimode.workers.protocol import FORWARD_KINDS


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure with its words."""

    name: str
    title: str
    svg: str
    note: str
    """What is drawn and how to read it."""


def draw_panels(series: Sequence[Series]) -> list[Panel]:
    """Every figure the data allow, in reading order."""
    drawers: tuple[Callable[[Sequence[Series]], Panel | None], ...] = (
        accuracy_against_tpf,
        accuracy_against_speed,
        nfe_per_token,
        acceptance_lengths,
        acceptance_by_position,
        forwards_by_kind,
        time_by_phase,
    )
    with house_style():
        return [panel for draw in drawers if (panel := draw(series)) is not None]


def accuracy_against_tpf(series: Sequence[Series]) -> Panel | None:
    """Accuracy over tokens per forward."""
    return _frontier(series, "tpf", "tokens per forward (TPF)", "tpf", "Accuracy against tokens per forward")


def accuracy_against_speed(series: Sequence[Series]) -> Panel | None:
    """Accuracy over tokens per second."""
    return _frontier(series, "tokens_per_second", "tokens per second, one stream", "speed", "Accuracy against speed")


def _frontier(series: Sequence[Series], figure: str, axis: str, name: str, title: str) -> Panel | None:
    """A large marker per mode (mean over shared benchmarks, 95 % intervals), a small one per benchmark."""
    shared = shared_benchmarks(series)
    drawing = Drawing()
    axes = drawing.figure.subplots()
    drawn = 0
    for s in series:
        color, marker = SERIES[s.slot], MARKERS[s.slot]
        for benchmark in s.rows if len(shared) > 1 or not shared else ():
            x, y = s.point(figure, benchmark), s.point("accuracy", benchmark)
            if x is not None and y is not None:
                (dot,) = axes.plot(x.value, y.value, marker, color=color, markersize=4.5, alpha=0.45, mew=0)
                drawing.tip(dot, f"{s.name}, {benchmark}: {y.value:.1f} % at {x.value:.2f}")
        x, y = s.mean(figure, shared), s.mean("accuracy", shared)
        if x is None or y is None:
            continue
        drawn += 1
        axes.errorbar(x.value, y.value, xerr=x.half_width, yerr=y.half_width, fmt="none", ecolor=color, elinewidth=1.4)
        (dot,) = axes.plot(
            x.value,
            y.value,
            marker,
            color=color,
            markersize=10,
            markeredgecolor=PAPER,
            markeredgewidth=1.2,
            label=s.name,
        )
        drawing.tip(dot, f"{s.name}: {y.value:.2f} % at {x.value:.2f}")
        if s.quoted is not None and figure == "tpf":
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
    _legend_below(axes)
    over = f"mean of {len(shared)} benchmarks" if len(shared) > 1 else shared[0]
    note = f"Large marks: {over} with 95 % intervals." + (" Small marks: single benchmarks." if len(shared) > 1 else "")
    if figure == "tpf" and any(s.quoted for s in series):
        note += " Hollow marks: quoted from the paper (its ten benchmarks)."
    return Panel(name, title, drawing.to_svg(name, title), note)


def nfe_per_token(series: Sequence[Series]) -> Panel | None:
    """How many forwards a token took, answer by answer: one row per run on one axis."""
    values = [(s, np.array([r.nfe / r.completion_tokens for r in s.records if r.completion_tokens])) for s in series]
    values = [(s, v) for s, v in values if len(v)]
    if not values:
        return None
    top = max(1.0, float(max(np.quantile(v, 0.995) for _, v in values)))
    edges = np.linspace(0, top * 1.02, 61)
    drawing = Drawing(height=0.75 + 0.72 * len(values))
    rows = drawing.figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (s, v) in zip(rows, values, strict=True):
        counts, _ = np.histogram(np.minimum(v, edges[-1]), edges)
        axes.stairs(100 * counts / len(v), edges, fill=True, color=SERIES[s.slot], alpha=0.85, linewidth=0)
        axes.axvline(float(np.median(v)), color=INK, linewidth=1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.text(0.0, 1.0, s.name, transform=axes.transAxes, va="top", fontsize=10, color=INK)
        axes.text(0.0, 0.72, f"median {np.median(v):.2f}", transform=axes.transAxes, va="top", fontsize=9, color=MUTED)
    rows[-1].set_xlabel("NFE per generated token")
    note = "Share of answers by forwards per token; less is faster. The line is the median."
    return Panel("nfe", "Forwards per token", drawing.to_svg("nfe", "Histogram of forwards per token"), note)


def acceptance_lengths(series: Sequence[Series]) -> Panel | None:
    """Tokens committed per verify, as shares of all verifies."""
    lengths = _accepted(series)
    if not lengths:
        return None
    longest = max(int(v.max()) for _, v in lengths)
    drawing = Drawing()
    axes = drawing.figure.subplots()
    for s, v in lengths:
        shares = 100 * np.bincount(v, minlength=longest + 1)[1:] / len(v)
        label = f"{s.name}, mean {v.mean():.2f}"
        edges = np.arange(0.5, longest + 1.5)
        axes.stairs(shares, edges, fill=True, color=SERIES[s.slot], alpha=0.28, linewidth=0)
        axes.stairs(shares, edges, color=SERIES[s.slot], linewidth=1.8, label=label)
        axes.axvline(float(v.mean()), color=SERIES[s.slot], linewidth=1.2, linestyle=(0, (3, 2)))
    axes.set_xlabel("tokens committed per verify")
    axes.set_ylabel("share of verifies, %")
    axes.set_xlim(0.5, longest + 0.5)
    _legend_below(axes)
    note = "How far each draft was accepted, correction token included; the dashed line is the mean."
    return Panel("accepted", "Acceptance length", drawing.to_svg("accepted", "Histogram of acceptance lengths"), note)


def acceptance_by_position(series: Sequence[Series]) -> Panel | None:
    """Share of verifies in which the draft token at each position was accepted."""
    lengths = _accepted(series)
    longest = max((int(v.max()) for _, v in lengths), default=0)
    if longest < 2:
        return None
    drawing = Drawing()
    axes = drawing.figure.subplots()
    positions = np.arange(1, longest)
    for s, v in lengths:
        reached = np.array([float((v > position).mean()) for position in positions])
        axes.plot(
            positions,
            100 * reached,
            color=SERIES[s.slot],
            marker=MARKERS[s.slot],
            markersize=4,
            linewidth=1.8,
            label=s.name,
        )
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("accepted, % of verifies")
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0.5)
    _legend_below(axes)
    note = "A draft token counts when it and every one before it matched. An answer's last cycle may be cut by its end."
    title = "Acceptance by draft position"
    return Panel("position", title, drawing.to_svg("position", title), note)


def forwards_by_kind(series: Sequence[Series]) -> Panel | None:
    """Model calls per 100 generated tokens, by kind."""
    bars = []
    for s in series:
        tokens = sum(r.completion_tokens for r in s.records)
        if tokens:
            bars.append((s, [100 * sum(r.forwards.get(k, 0) for r in s.records) / tokens for k in FORWARD_KINDS]))
    if not bars:
        return None
    drawing = Drawing(height=1.35 + 0.42 * len(bars))
    _stacked(drawing, bars, FORWARD_KINDS, "forwards per 100 generated tokens", "{:.1f}")
    note = "Every model call is of exactly one kind. NFE as the reference counts it leaves prefill out in ar and dlm."
    return Panel("kinds", "Where the forwards went", drawing.to_svg("kinds", "Forwards by kind"), note)


def time_by_phase(series: Sequence[Series]) -> Panel | None:
    """Mean seconds of a request: waiting, to the first token, after it."""
    phases = ("queue", "to first token", "rest of the answer")
    bars = []
    for s in series:
        records = [r for r in s.records if r.total_s > 0]
        if records:
            queue = float(np.mean([r.queue_s for r in records]))
            first = float(np.mean([max(r.first_token_s - r.queue_s, 0.0) for r in records]))
            rest = float(np.mean([max(r.total_s - max(r.first_token_s, r.queue_s), 0.0) for r in records]))
            bars.append((s, [queue, first, rest]))
    if not bars:
        return None
    drawing = Drawing(height=1.35 + 0.42 * len(bars))
    _stacked(drawing, bars, phases, "seconds per request (mean)", "{:.2f} s")
    note = "Time in the queue depends on how many requests the client keeps in flight, not on the mode."
    return Panel("phases", "Where the time went", drawing.to_svg("phases", "Seconds per request by phase"), note)


def _stacked(
    drawing: Drawing, bars: list[tuple[Series, list[float]]], parts: Sequence[str], axis: str, form: str
) -> None:
    """Horizontal bars, one per run from the top, cut into `parts`; parts that are zero everywhere are left out."""
    axes = drawing.figure.subplots()
    places = np.arange(len(bars))[::-1]
    left = np.zeros(len(bars))
    for index, part in enumerate(parts):
        widths = np.array([values[index] for _, values in bars])
        if not widths.any():
            continue
        patches = axes.barh(
            places, widths, 0.62, left=left, color=KINDS[index], label=part, edgecolor=PAPER, linewidth=0.8
        )
        for patch, (s, values) in zip(patches, bars, strict=True):
            drawing.tip(patch, f"{s.name}, {part}: {form.format(values[index])}")
        left += widths
    for place, total in zip(places, left, strict=True):
        axes.text(total, place, " " + form.format(total), va="center", fontsize=9, color=INK)
    axes.set_yticks(places, [s.name for s, _ in bars], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, float(left.max()) * 1.14 or 1.0)
    axes.set_xlabel(axis)
    _legend_below(axes, columns=len(parts) if len(parts) < 4 else 3)


def _accepted(series: Sequence[Series]) -> list[tuple[Series, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    """Acceptance lengths of every verify, of the runs that have any."""
    found = [(s, [n for r in s.records for n in r.acceptance_lengths]) for s in series]
    return [(s, np.array(lengths, dtype=np.int64)) for s, lengths in found if lengths]


def _legend_below(axes: Axes, columns: int = 2) -> None:
    """A legend under the plot, where it never covers data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure = axes.figure
        figure.legend(
            handles, labels, loc="outside lower left", ncols=columns, fontsize=9, labelcolor=INK, edgecolor=GRID,
            handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
