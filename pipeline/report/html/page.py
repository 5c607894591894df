"""Renders report.html: one file that needs no network and opens from disk.

Templates escape every value that comes from data, and a content policy in the page lets only its own script run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from trimode.core.files import write_text_atomic
from trimode.pipeline.analysis.loads import LoadSweep
from trimode.pipeline.analysis.published import SOURCE
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.analysis.summary import ReportRow
from trimode.pipeline.analysis.text import MISSING, interval, number, signed_interval
from trimode.pipeline.report.formats import COLUMNS
from trimode.pipeline.report.html.figures import draw_panels
from trimode.pipeline.report.html.load_figures import draw_loads
from trimode.pipeline.report.html.samples import make_sample_book
from trimode.pipeline.report.html.series import Series, benchmarks_of, make_series, model_path, shared_benchmarks
from trimode.pipeline.report.html.svg import MARKERS
from trimode.pipeline.report.html.tables import make_cards, numbers_rows, settings_rows
from trimode.pipeline.run_folder.provenance import now

PACKAGE = "trimode.pipeline.report.html"
FILE_NAME = "report.html"
SHAPES = dict(zip(MARKERS, "●■▲◆▼✚✖★", strict=True))
"""The character that looks like each marker of the figures."""


def write_page(
    target: Path, runs: Sequence[Run], rows: Sequence[ReportRow], notes: Sequence[str], loads: Sequence[LoadSweep] = ()
) -> None:
    """Writes the page to `target`, atomically, with the name of its folder as title.

    Raises OSError when the place cannot be written.
    """
    title = target.resolve().parent.name
    write_text_atomic(target, make_page(title, make_series(runs, rows), notes, loads))


def make_page(title: str, series: Sequence[Series], notes: Sequence[str], loads: Sequence[LoadSweep] = ()) -> str:
    """Returns the whole page as text; `title` names the sweep, `notes` are remarks to show first."""
    book = make_sample_book(series)
    script = _asset("page.js")
    return (
        make_environment()
        .get_template("page.html")
        .render(
            title=title,
            style=_asset("page.css"),
            script=script,
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            models=_models(series, loads),
            made=now(),
            notes=notes,
            series=series,
            benchmarks=benchmarks_of(series),
            shared=shared_benchmarks(series),
            source=SOURCE,
            cards=make_cards(series),
            panels=[*draw_loads(loads), *draw_panels(series)],
            columns=COLUMNS,
            numbers=numbers_rows(series),
            settings=settings_rows(series),
            index=book.index,
            chunks=book.chunks,
        )
    )


def make_environment() -> Environment:
    """The templates of this package: values are escaped, and a name that is missing raises an error."""
    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "interval": interval, "signed_interval": signed_interval}
    environment.globals |= {"missing": MISSING, "shapes": [SHAPES[marker] for marker in MARKERS]}
    # `tojson` writes <, >, & and ' as \uXXXX, so no text can end the script element it stands in
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _asset(name: str) -> str:
    """Text of a file of this package."""
    return resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _models(series: Sequence[Series], loads: Sequence[LoadSweep]) -> str:
    """Names of the checkpoints, each once."""
    paths = [*(model_path(s.run) for s in series), *(sweep.model for sweep in loads)]
    return ", ".join(dict.fromkeys(Path(path).name for path in paths if path)) or "unknown model"
