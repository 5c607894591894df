"""Figures of a sweep over loads: speed by requests at a time with the crossovers, and accuracy against speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from trimode.pipeline.analysis.loads import LoadSweep
from trimode.pipeline.report.html.svg import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    SERIES,
    Drawing,
    Panel,
    legend_below,
    page_style,
)


def draw_loads(sweeps: Sequence[LoadSweep]) -> list[Panel]:
    """Draws the two figures of every sweep."""
    with page_style():
        return [panel for number, sweep in enumerate(sweeps) for panel in (_speed(sweep, number), _both(sweep, number))]


def _speed(sweep: LoadSweep, number: int) -> Panel:
    """Tokens per second over requests at a time. A ring marks the fastest, a line where another one becomes it."""
    drawing = Drawing()
    axes = drawing.figure.subplots()
    fastest = sweep.fastest()
    for place, setting in enumerate(sweep.settings):
        color, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
        loads, speeds = list(setting.tokens_per_s), list(setting.tokens_per_s.values())
        axes.plot(loads, speeds, color=color, linewidth=1.6, label=setting.name)
        for load, speed in setting.tokens_per_s.items():
            best = fastest.get(load) == setting.name
            (dot,) = axes.plot(
                load, speed, marker, color=color, markersize=8 if best else 4,
                markeredgecolor=INK if best else PAPER, markeredgewidth=1.2 if best else 0.5,
            )  # fmt: skip
            drawing.tip(dot, f"{setting.name}, {load} at a time: {speed:.0f} tokens/s")
    for load in sweep.crossovers:
        before = max(other for other in fastest if other < load)
        axes.axvline((before * load) ** 0.5, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _plain_ticks(axes, sorted(fastest))
    axes.set_xlabel("requests at a time")
    axes.set_ylabel("tokens per second, all requests")
    legend_below(axes)
    note = f"{sweep.advice} Outlined marks are the fastest; dashed lines are crossovers. {_where(sweep)}"
    title = "Speed by load"
    name = f"load-speed{number}"
    return Panel(name, title, drawing.to_svg(name, title), note)


def _both(sweep: LoadSweep, number: int) -> Panel:
    """Accuracy over tokens per second, one curve per setting through its loads."""
    drawing = Drawing()
    axes = drawing.figure.subplots()
    for place, setting in enumerate(sweep.settings):
        color, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
        speeds = list(setting.tokens_per_s.values())
        axes.plot(speeds, [setting.accuracy] * len(speeds), color=color, linewidth=1.4, label=setting.name)
        for load, speed in setting.tokens_per_s.items():
            (dot,) = axes.plot(
                speed, setting.accuracy, marker, color=color, markersize=5, markeredgecolor=PAPER, markeredgewidth=0.5
            )
            drawing.tip(dot, f"{setting.name}, {load} at a time: {setting.accuracy:.1f} % at {speed:.0f} tokens/s")
    axes.set_xscale("log")
    _plain_ticks(axes, None)
    axes.set_xlabel("tokens per second, all requests")
    axes.set_ylabel("accuracy, %")
    legend_below(axes)
    loads = sorted(sweep.fastest())
    note = (
        f"One mark per load, from {loads[0]} at a time (left) to {loads[-1]}. An answer does not depend "
        f"on the load, so a setting has one accuracy. {_where(sweep)}"
    )
    title = "Accuracy against speed, by load"
    name = f"load-accuracy{number}"
    return Panel(name, title, drawing.to_svg(name, title), note)


def _plain_ticks(axes: Axes, loads: Sequence[int] | None) -> None:
    """Labels the loads themselves, and speeds as plain numbers."""
    if loads is not None:
        axes.set_xticks(loads, [str(load) for load in loads])
        axes.xaxis.set_minor_locator(NullLocator())
    speeds = axes.yaxis if loads is not None else axes.xaxis
    low, high = speeds.get_view_interval()
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5) if low <= step * 10**power <= high]
    speeds.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
    speeds.set_minor_locator(NullLocator())


def _where(sweep: LoadSweep) -> str:
    return f"{Path(sweep.model).name}, {sweep.problems} problems, {sweep.machine}."
