"""The page's cards and tables as HTML: what each mode reached, accuracy by benchmark, all figures, settings.

Knows no files and no drawing. All text passes `esc`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from trimode.core.protocol import Mode
from trimode.pipeline.analysis.comparable import facts
from trimode.pipeline.analysis.pairing import Pairing, pair, pool
from trimode.pipeline.analysis.published import SOURCE
from trimode.pipeline.analysis.summary import ReportRow
from trimode.pipeline.analysis.text import interval, number, signed_interval
from trimode.pipeline.report.formats import COLUMNS, cells
from trimode.pipeline.report.html.series import Mean, Series, benchmarks_of, model_path, shared_benchmarks
from trimode.pipeline.report.html.svg import MARKERS

_SHAPES = dict(zip(MARKERS, "●■▲◆▼✚✖★", strict=True))


def esc(text: object) -> str:
    """Text as HTML, quotes included."""
    return html.escape(str(text), quote=True)


def chip(series: Series) -> str:
    """The run's name behind its mark."""
    shape = _SHAPES[MARKERS[series.slot]]
    return f'<span class="chip s{series.slot}"><i aria-hidden="true">{shape}</i>{esc(series.name)}</span>'


def cards(series: Sequence[Series]) -> str:
    """One card per run: means over the shared benchmarks and the paired difference to ar."""
    shared = shared_benchmarks(series)
    reference = next((s for s in series if s.run.mode is Mode.AR), None)
    return '<div class="cards">' + "".join(_card(s, shared, reference) for s in series) + "</div>"


def _card(s: Series, shared: Sequence[str], reference: Series | None) -> str:
    parts = [f"<h3>{chip(s)}</h3><dl>"]
    for title, figure, digits, unit in (
        ("accuracy", "accuracy", 2, " %"),
        ("TPF", "tpf", 2, ""),
        ("tok/s", "tokens_per_second", 1, ""),
    ):
        mean = s.mean(figure, shared) if shared else None
        parts.append(f"<div><dt>{title}</dt><dd>{_mean(mean, digits, unit)}</dd></div>")
    parts.append("</dl>")
    if reference is not None and s is not reference:
        parts.append(f"<p>{_against(s, reference)}</p>")
    elif s is reference and len(shared) > 1:
        parts.append(f"<p>Means over {len(shared)} benchmarks. The other modes are compared with this one.</p>")
    return f'<article class="card s{s.slot}">{"".join(parts)}</article>'


def _mean(mean: Mean | None, digits: int, unit: str) -> str:
    if mean is None:
        return "\N{EN DASH}"
    width = f"<small>± {mean.half_width:.{digits}f}</small>" if mean.half_width else ""
    return f"{mean.value:.{digits}f}{unit}{width}"


def _against(s: Series, reference: Series) -> str:
    """The paired difference in words."""
    pairings = [
        found
        for name, task in s.run.tasks.items()
        if name in reference.run.tasks and (found := pair(task, reference.run.tasks[name])) is not None
    ]
    if not pairings:
        return "No problem in common with ar."
    total = pool(pairings)
    text = (
        f"<b>{total.difference:+.2f}</b> points against ar ({signed_interval(total.interval)}), "
        f"{_flips(total)} over {total.num_answers} answers"
    )
    if s.run.mode is Mode.LINEAR_SPEC:
        text += f"; same text as ar in {100 * total.num_identical / total.num_answers:.1f} %"
    return text + "."


def _flips(total: Pairing) -> str:
    won = sum(flip.winner == "a" for flip in total.flips)
    return f"{won} won and {len(total.flips) - won} lost" if total.flips else "no flips"


def accuracy_table(series: Sequence[Series]) -> str:
    """Modes down, benchmarks across, each cell with its interval; published figures of the same checkpoint below."""
    names, shared = benchmarks_of(series), shared_benchmarks(series)
    with_mean = len(shared) > 1
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in names)
    head += f'<th scope="col">mean of {len(shared)}</th>' if with_mean else ""
    lines = [f'<thead><tr><th scope="col">mode</th>{head}</tr></thead><tbody>']
    for s in series:
        row = "".join(f"<td>{_accuracy(s.rows.get(name))}</td>" for name in names)
        if with_mean:
            row += f'<td class="mean">{_mean(s.mean("accuracy", shared), 2, "")}</td>'
        lines.append(f'<tr class="s{s.slot}"><th scope="row">{chip(s)}</th>{row}</tr>')
        if s.quoted is not None:
            row = "".join(f"<td>{number(s.quoted.accuracy.get(name), 2)}</td>" for name in names)
            row += f"<td>{s.quoted.mean_accuracy:.2f} <small>(mean of its 10)</small></td>" if with_mean else ""
            who = f"quoted: {s.quoted.size} {s.quoted.label}, {SOURCE}"
            lines.append(f'<tr class="quoted"><th scope="row">{esc(who)}</th>{row}</tr>')
    return _scroll("accuracy", "<table>" + "".join(lines) + "</tbody></table>")


def _accuracy(row: ReportRow | None) -> str:
    """A figure over a bar that shows its interval on 0 to 100."""
    if row is None or row.accuracy is None or row.accuracy_low is None or row.accuracy_high is None:
        return "\N{EN DASH}"
    style = f"--low:{row.accuracy_low:.2f};--high:{row.accuracy_high:.2f};--at:{row.accuracy:.2f}"
    extra = "" if row.finished else f"<small>{row.done}/{row.total or '?'} so far</small>"
    extra += "" if row.std_err is None else f"<small>± {row.std_err:.2f} s.e. over {row.seeds} seeds</small>"
    bounds = f"{row.accuracy_low:.1f} to {row.accuracy_high:.1f}"
    return f'<b>{row.accuracy:.2f}</b><span class="bar" style="{style}"></span><small>{bounds}</small>{extra}'


def figures_table(series: Sequence[Series]) -> str:
    """Every figure of every run and benchmark, as the markdown table has them, with intervals of TPF and speed."""
    by_name = {name: index for index, name in enumerate(COLUMNS)}
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in COLUMNS)
    lines = [f"<thead><tr>{head}</tr></thead>"]
    for benchmark in benchmarks_of(series):
        lines.append("<tbody>")
        for s in (s for s in series if benchmark in s.rows):
            row = s.rows[benchmark]
            texts = [esc(cell) for cell in cells(row)]
            texts[by_name["Mode"]] = chip(s)
            for column, bounds, digits in (("TPF", row.tpf_interval, 2), ("tok/s", row.speed_interval, 1)):
                if bounds is not None:
                    texts[by_name[column]] += f"<small>{interval(bounds, digits)}</small>"
            quoted = None if s.quoted is None else s.quoted.tpf.get(benchmark)
            if quoted is not None:
                texts[by_name["TPF"]] += f"<small>quoted {quoted:.2f}</small>"
            body = f'<th scope="row">{texts[0]}</th>' + "".join(f"<td>{text}</td>" for text in texts[1:])
            lines.append(f"<tr>{body}</tr>")
        lines.append("</tbody>")
    return _scroll("figures", "<table>" + "".join(lines) + "</table>")


def settings_table(series: Sequence[Series]) -> str:
    """What each run was made with, from its manifest."""
    known = [dict(facts(s.run)) for s in series]
    generic = [
        {name.replace(f" of {s.run.label}", ""): value for name, value in found.items()}
        for s, found in zip(series, known, strict=True)
    ]
    names = list(dict.fromkeys(name for found in generic for name in found))
    head = "".join(f'<th scope="col">{chip(s)}</th>' for s in series)
    rows = [("folder", [str(s.run.path) for s in series]), ("model", [model_path(s.run) for s in series])]
    rows.append(("state", [s.run.state for s in series]))
    rows += [(name, [found.get(name, "\N{EN DASH}") for found in generic]) for name in names]
    body = "".join(
        f'<tr><th scope="row">{esc(name)}</th>' + "".join(f"<td>{esc(value)}</td>" for value in values) + "</tr>"
        for name, values in rows
    )
    table = f'<table><thead><tr><th scope="col">setting</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return _scroll("settings", table)


def _scroll(name: str, table: str) -> str:
    """A table that scrolls sideways inside the page, by keyboard too."""
    return f'<div class="scroll {name}" tabindex="0" role="region" aria-label="{name} table">{table}</div>'
