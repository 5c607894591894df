"""Puts report.html together: one file, no network, no markup from data, opens from disk.

Knows no figures of its own; a content policy in the page lets nothing run but the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from trimode.core.files import write_text_atomic
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.analysis.summary import ReportRow
from trimode.pipeline.report.html.figures import draw_panels
from trimode.pipeline.report.html.samples import SampleBook, make_sample_book
from trimode.pipeline.report.html.series import Series, make_series, model_path
from trimode.pipeline.report.html.svg import Panel
from trimode.pipeline.report.html.tables import accuracy_table, cards, esc, figures_table, settings_table
from trimode.pipeline.run_folder.manifest import now

_ASSETS = Path(__file__).resolve().parent
FILE_NAME = "report.html"


def write_page(target: Path, title: str, runs: Sequence[Run], rows: Sequence[ReportRow], notes: Sequence[str]) -> None:
    """Writes the page to `target`, atomically. Raises OSError when the place cannot be written."""
    write_text_atomic(target, make_page(title, make_series(runs, rows), notes))


def make_page(title: str, series: Sequence[Series], notes: Sequence[str]) -> str:
    """The whole page as text; `title` names the sweep, `notes` are remarks to show first."""
    book = make_sample_book(series)
    script = (_ASSETS / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _fill(
        (_ASSETS / "page.html").read_text(encoding="utf-8"),
        {
            "policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:",
            "title": esc(title),
            "style": (_ASSETS / "page.css").read_text(encoding="utf-8"),
            "models": _models(series),
            "made": esc(now()),
            "notes": _notes(notes),
            "cards": cards(series),
            "accuracy": accuracy_table(series),
            "panels": "".join(map(_panel, draw_panels(series))),
            "figures": figures_table(series),
            "settings": settings_table(series),
            "data": _data(book),
            "script": script,
        },
    )


def _fill(template: str, parts: dict[str, str]) -> str:
    """The template with each {{name}} replaced once; what a part contains is not looked at again."""
    pieces = template.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)


def _models(series: Sequence[Series]) -> str:
    paths = dict.fromkeys(filter(None, (model_path(s.run) for s in series)))
    return esc(", ".join(Path(path).name for path in paths) or "unknown model")


def _notes(notes: Sequence[str]) -> str:
    """Remarks in a box of their own, closed when there are many."""
    if not notes:
        return ""
    items = "".join(f"<li>{esc(note)}</li>" for note in notes)
    opened = " open" if len(notes) <= 5 else ""
    title = "1 remark" if len(notes) == 1 else f"{len(notes)} remarks"
    return f'<details class="notes"{opened}><summary>{title}</summary><ul>{items}</ul></details>'


def _panel(panel: Panel) -> str:
    return (
        f'<figure id="figure-{panel.name}"><h3>{esc(panel.title)}</h3>{panel.svg}'
        f"<figcaption>{esc(panel.note)}</figcaption></figure>"
    )


def _data(book: SampleBook) -> str:
    """Index and packed texts as inert script elements; `<` is escaped, so no text can end them."""
    index = json.dumps(book.index, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    elements = [f'<script type="application/json" id="index">{index}</script>']
    elements += [f'<script type="text/plain" id="chunk{i}">{chunk}</script>' for i, chunk in enumerate(book.chunks)]
    return "\n".join(elements)
