"""Figures of cost: forwards per token, acceptance, length, and where forwards and time went.

Each function returns one Panel, or None if there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from trimode.core.protocol import FORWARD_KINDS
from trimode.pipeline.report.html.series import Series
from trimode.pipeline.report.html.svg import INK, KINDS, MARKERS, PAPER, SERIES, Drawing, Panel, legend_below


def nfe_per_token(series: Sequence[Series]) -> Panel | None:
    """Histogram of forwards per token over the answers: one row per run on a shared axis."""
    values = []
    for s in series:
        costs = [r.cost for r in s.records if r.cost.completion_tokens]
        values.append((s, np.array([c.nfe / c.completion_tokens for c in costs if c.nfe is not None])))
    values = [(s, v) for s, v in values if len(v)]
    if not values:
        return None
    top = max(1.0, float(max(np.quantile(v, 0.995) for _, v in values)))
    edges = np.linspace(0, top * 1.02, 61)
    drawing = Drawing(height=0.7 + 0.68 * len(values))
    rows = drawing.figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (s, v) in zip(rows, values, strict=True):
        counts, _ = np.histogram(np.minimum(v, edges[-1]), edges)
        axes.stairs(100 * counts / len(v), edges, fill=True, color=SERIES[s.slot], alpha=0.85, linewidth=0)
        axes.axvline(float(np.median(v)), color=INK, linewidth=1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(f"{s.short_name}, median {np.median(v):.2f}", loc="left", fontsize=9, color=INK, pad=2)
    rows[-1].set_xlabel("NFE per generated token")
    note = "Share of answers by forwards per token; less is faster. The line is the median."
    return Panel("nfe", "Forwards per token", drawing.to_svg("nfe", "Histogram of forwards per token"), note)


def acceptance_lengths(series: Sequence[Series]) -> Panel | None:
    """Tokens emitted per verify, as shares of all verifies."""
    lengths = _accepted(series)
    longest = max((int(v.max()) for _, v in lengths), default=0)
    if longest < 1:
        return None
    drawing = Drawing()
    axes = drawing.figure.subplots()
    for s, v in lengths:
        shares = 100 * np.bincount(v, minlength=longest + 1)[1:] / len(v)
        label = f"{s.short_name}, mean {v.mean():.2f}"
        edges = np.arange(0.5, longest + 1.5)
        axes.stairs(shares, edges, fill=True, color=SERIES[s.slot], alpha=0.28, linewidth=0)
        axes.stairs(shares, edges, color=SERIES[s.slot], linewidth=1.8, label=label)
        axes.axvline(float(v.mean()), color=SERIES[s.slot], linewidth=1.2, linestyle=(0, (3, 2)))
    axes.set_xlabel("tokens emitted per verify")
    axes.set_ylabel("share of verifies, %")
    axes.set_xlim(0.5, longest + 0.5)
    legend_below(axes)
    note = "Correction token included, nothing past an answer's end; the dashed line is the mean."
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
            label=s.short_name,
        )
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("accepted, % of verifies")
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0.5)
    legend_below(axes)
    note = "A draft token counts when it and every one before it matched. An answer's last cycle may be cut by its end."
    title = "Acceptance by draft position"
    return Panel("position", title, drawing.to_svg("position", title), note)


def tokens_per_answer(series: Sequence[Series]) -> Panel | None:
    """Cumulative share of answers by length."""
    values = [(s, np.sort([r.cost.completion_tokens for r in s.records])) for s in series]
    values = [(s, v) for s, v in values if len(v)]
    if not values:
        return None
    drawing = Drawing()
    axes = drawing.figure.subplots()
    for s, v in values:
        cut = sum(r.finish_reason == "length" for r in s.records)
        label = s.short_name + (f", {100 * cut / len(v):.1f} % cut" if cut else "")
        axes.step(
            v, 100 * np.arange(1, len(v) + 1) / len(v), where="post", color=SERIES[s.slot], linewidth=1.6, label=label
        )
    if values[-1][1][-1] > 20 * np.median(values[-1][1]):
        axes.set_xscale("log")
    axes.set_xlabel("generated tokens")
    axes.set_ylabel("answers up to this length, %")
    axes.set_ylim(0, 102)
    legend_below(axes)
    title = "Length of the answers"
    note = "Cumulative. Modes whose answers are longer need more forwards at the same TPF."
    return Panel("length", title, drawing.to_svg("length", title), note)


def forwards_by_kind(series: Sequence[Series]) -> Panel | None:
    """Model calls per 100 generated tokens, by kind."""
    bars = []
    for s in series:
        tokens = sum(r.cost.completion_tokens for r in s.records)
        if tokens and any(r.cost.forwards for r in s.records):
            bars.append((s, [100 * sum(r.cost.forwards.get(k, 0) for r in s.records) / tokens for k in FORWARD_KINDS]))
    if not bars:
        return None
    drawing = Drawing(height=1.35 + 0.42 * len(bars))
    _stacked(drawing, bars, FORWARD_KINDS, "forwards per 100 generated tokens", "{:.1f}")
    note = "Every model call, by kind. NFE follows the reference: no prefill in dlm, one per token in ar."
    return Panel("kinds", "Where the forwards went", drawing.to_svg("kinds", "Forwards by kind"), note)


def time_by_phase(series: Sequence[Series]) -> Panel | None:
    """Mean seconds of a request: waiting, to the first token, after it."""
    phases = ("queue", "to first token", "rest of the answer")
    bars = []
    for s in series:
        records = [r for r in s.records if r.cost.total_s > 0 and r.cost.nfe is not None]
        if records:
            queue = float(np.mean([r.cost.queue_s for r in records]))
            first = float(np.mean([max(r.cost.first_token_s - r.cost.queue_s, 0.0) for r in records]))
            rest = float(
                np.mean([max(r.cost.total_s - max(r.cost.first_token_s, r.cost.queue_s), 0.0) for r in records])
            )
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
    """Draws horizontal bars, one per run from the top, cut into `parts`. Parts that are all zero are left out."""
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
    axes.set_yticks(places, [s.short_name for s, _ in bars], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, float(left.max()) * 1.14 or 1.0)
    axes.set_xlabel(axis)
    legend_below(axes, columns=len(parts) if len(parts) < 4 else 3)


def _accepted(series: Sequence[Series]) -> list[tuple[Series, NDArray[np.int64]]]:
    """Acceptance lengths of every verify, of the runs that have any."""
    found = [(s, [n for r in s.records for n in r.cost.acceptance_lengths]) for s in series]
    return [(s, np.array(lengths, dtype=np.int64)) for s, lengths in found if lengths]
