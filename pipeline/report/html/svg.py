"""Matplotlib figures as inline SVG with the fonts of the page, its colours in light and dark, and hover titles."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour stands for a CSS variable: the page swaps them, so one drawing serves light and dark.
INK = "#010101"
MUTED = "#020202"
GRID = "#030303"
PAPER = "#040404"
SERIES = tuple(f"#0a0a{slot:02x}" for slot in range(16, 24))
KINDS = tuple(f"#0b0b{slot:02x}" for slot in range(16, 22))

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--card"}
_VARIABLES |= {color: f"--series-{slot}" for slot, color in enumerate(SERIES)}
_VARIABLES |= {color: f"--kind-{slot}" for slot, color in enumerate(KINDS)}

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One per colour slot, so that runs can be told apart without colour."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trimode",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "legend.frameon": False,
}


class Drawing:
    """A figure and the hover titles of its parts."""

    def __init__(self, width: float = 4.9, height: float = 3.4) -> None:
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self._titles: dict[str, str] = {}

    def tip(self, artist: Artist, text: str) -> None:
        """Shows `text` while the pointer is on `artist`."""
        gid = f"tip{len(self._titles)}"
        artist.set_gid(gid)
        self._titles[gid] = text

    def to_svg(self, name: str, label: str) -> str:
        """Returns the <svg> element, its text escaped. `name` prefixes its ids; a screen reader says `label`."""
        out = io.StringIO()
        self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        for gid, title in self._titles.items():
            text = text.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{html.escape(title)}</title>', 1)
        text = re.sub(r'\bid="', f'id="{name}-', text)
        text = re.sub(r'href="#', f'href="#{name}-', text)
        text = text.replace("url(#", f"url(#{name}-")
        text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", text)
        for color, variable in _VARIABLES.items():
            text = text.replace(color, f"var({variable})")
        opening = re.match(r"<svg[^>]*>", text)
        assert opening is not None
        box = re.search(r'viewBox="[^"]*"', opening[0])
        assert box is not None
        head = f'<svg {box[0]} role="img" aria-label="{html.escape(label)}" xmlns="http://www.w3.org/2000/svg"'
        return head + ' xmlns:xlink="http://www.w3.org/1999/xlink">' + text[opening.end() :].strip()


@contextmanager
def page_style() -> Iterator[None]:
    """Matplotlib settings of every figure of the page."""
    with mpl.rc_context(STYLE):
        yield


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure with its title and note."""

    name: str
    title: str
    svg: str
    """Markup made by `Drawing.to_svg`."""
    note: str
    """What is drawn and how to read it."""


LONG_LABEL = 26
"""Characters of a label in a legend. With a longer one, each entry has a line of its own."""

LEGEND_LINES = 3
"""Lines of a legend for which a figure has room. It grows with each further one."""

LINE_HEIGHT = 0.19
"""Inches per line of a legend."""


def legend_below(axes: Axes, columns: int = 2) -> None:
    """Adds a legend under the plot, where it cannot cover data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 1 if max(map(len, labels)) > LONG_LABEL else columns
        figure = axes.figure
        assert isinstance(figure, Figure)
        lines = -(-len(labels) // columns)
        if lines > LEGEND_LINES:  # the plot keeps its height
            figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * (lines - LEGEND_LINES))
        figure.legend(
            handles, labels, loc="outside lower left", ncols=columns, fontsize=9, labelcolor=INK, edgecolor=GRID,
            handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
