"""The page as text: self-contained, escaped, complete."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
from trimode.pipeline.analysis.runs import read_sweep
from trimode.pipeline.analysis.summary import summarize_runs
from trimode.pipeline.report.html.page import make_environment, make_page
from trimode.pipeline.report.html.samples import MAX_TEXT, clip
from trimode.pipeline.report.html.series import Series, make_series
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{data}}{% raw %}{# \u2028 {0} "
HOSTILE_NAME = "<img>\"'&lt;{{1}}"
"""May stand in the name of a folder; short, so that the legends of the figures have room."""


def series_of(root: Path) -> list[Series]:
    runs, _ = read_sweep(root)
    return make_series(runs, summarize_runs(runs))


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of four runs over four benchmarks of 40 problems."""
    return make_page("sweep", series_of(demo_sweep(tmp_path_factory.mktemp("sweep"), samples=40)), [])


def texts_of(page: str) -> list[dict[str, object]]:
    """Every problem in the packed chunks."""
    chunks = re.findall(r'<script type="text/plain" id="chunk\d+">([^<]*)</script>', page)
    return [problem for chunk in chunks for problem in json.loads(gzip.decompress(base64.b64decode(chunk)))]


def index_of(page: str) -> dict[str, list[object]]:
    found = re.search(r'<script type="application/json" id="index">([^<]*)</script>', page)
    assert found is not None
    index: dict[str, list[object]] = json.loads(found[1])
    return index


def test_the_page_asks_nothing_of_the_network(sweep_page: str) -> None:
    without_names = re.sub(r'xmlns(:xlink)?="[^"]*"', "", sweep_page)
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", without_names)
    assert "default-src 'none'" in sweep_page


def test_no_value_is_missing_in_the_page(sweep_page: str) -> None:
    assert [word for word in ("undefined", "NaN") if word in sweep_page] == []


def test_every_answer_is_in_the_browser_once(sweep_page: str) -> None:
    index = index_of(sweep_page)
    assert len(index["q"]) == 4 * 4 * 40
    problems = texts_of(sweep_page)
    assert len(problems) == 4 * 40
    assert all(len(problem["answers"]) == 4 for problem in problems)  # type: ignore[arg-type]


def test_flips_are_marked_on_every_answer_of_the_problem(sweep_page: str) -> None:
    index = index_of(sweep_page)
    by_problem: dict[object, set[tuple[object, object]]] = {}
    for problem, right, flip in zip(index["q"], index["ok"], index["f"], strict=True):
        by_problem.setdefault(problem, set()).add((right, flip))
    assert {1, 0} == {flip for verdicts in by_problem.values() for _, flip in verdicts}
    for verdicts in by_problem.values():
        assert {flip for _, flip in verdicts} == {int(len({right for right, _ in verdicts}) > 1)}


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(samples=3, hostile=HOSTILE))
    page = make_page(f"sweep {HOSTILE}", series_of(tmp_path), [f"note {HOSTILE}"])
    assert "<img" not in page
    assert "<script>alert" not in page
    assert page.count("<script") == 3
    assert HOSTILE in str(texts_of(page)[0]["prompt"])


def test_no_folder_name_becomes_markup(tmp_path: Path) -> None:
    """Names of runs, checkpoints and folders stand in cards, tables, drawings and the index."""
    write_run(tmp_path, FakeRun(samples=3, model=HOSTILE_NAME))
    write_run(tmp_path, FakeRun(samples=3, model=HOSTILE_NAME, salt="_again"))
    series = series_of(tmp_path)
    assert all(HOSTILE_NAME in s.name for s in series)
    page = make_page("sweep", series, [])
    assert "<img" not in page
    assert "{{1}}" in page
    assert page.count("<script") == 3
    names = [run["name"] for run in index_of(page)["runs"]]  # type: ignore[index]
    assert names == [s.name for s in series]


def test_every_template_escapes() -> None:
    environment = make_environment()
    assert environment.from_string("{{ text }}").render(text="<b>") == "&lt;b&gt;"
    for name in environment.list_templates(extensions=["html"]):
        source = environment.loader.get_source(environment, name)[0]  # type: ignore[union-attr]
        assert "autoescape" not in source
        assert set(re.findall(r"(\S+)\|safe", source)) <= {"style", "script", "panel.svg"}


def test_remarks_are_closed_when_there_are_many(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(samples=2))
    series = series_of(tmp_path)
    assert '<details class="notes" open><summary>1 remark</summary>' in make_page("sweep", series, ["one"])
    assert '<details class="notes"><summary>6 remarks</summary>' in make_page("sweep", series, ["one"] * 6)
    assert "<details" not in make_page("sweep", series, [])


def test_the_policy_admits_exactly_the_pages_own_script(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(samples=2))
    page = make_page("sweep", series_of(tmp_path), [])
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", page)
    assert not re.search(r"\son\w+=", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))


def test_published_results_stand_beside_a_known_checkpoint_only(tmp_path: Path) -> None:
    fake = FakeRun(mode="linear_spec", lora=True, benchmarks=("gsm8k", "math-500"), samples=4)
    write_run(tmp_path / "known", FakeRun(**{**_fields(fake), "model": "Nemotron-Labs-Diffusion-8B"}))
    write_run(tmp_path / "other", fake)
    known = make_page("sweep", series_of(tmp_path / "known"), [])
    assert "quoted: 8B linear_spec+lora" in known
    assert "93.78" in known
    assert "quoted 7.36" in known
    assert "quoted:" not in make_page("sweep", series_of(tmp_path / "other"), [])


def _fields(fake: FakeRun) -> dict[str, object]:
    return {name: getattr(fake, name) for name in fake.__dataclass_fields__}


@pytest.mark.parametrize("mode", ["ar", "dlm"])
def test_a_single_run_has_a_page_without_acceptance(tmp_path: Path, mode: str) -> None:
    write_run(tmp_path, FakeRun(mode=mode, samples=3))
    page = make_page("sweep", series_of(tmp_path), [])
    assert "figure-tpf" in page
    assert "figure-accepted" not in page


def test_an_unfinished_run_shows_how_far_it_is(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(samples=10, finished=False))
    assert "5/10 so far" in make_page("sweep", series_of(tmp_path), [])


def test_runs_of_one_mode_get_colours_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(salt="_again"))
    series = series_of(tmp_path)
    assert len({s.slot for s in series}) == 2
    assert len({s.name for s in series}) == 2


def test_ids_are_unique(sweep_page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', sweep_page)
    assert len(ids) == len(set(ids))
    for reference in set(re.findall(r'(?:href="#|url\(#)([^")]+)', sweep_page)):
        assert reference in ids


def test_a_long_text_keeps_both_ends_and_says_what_is_missing() -> None:
    text = "a" * MAX_TEXT + "b" * MAX_TEXT
    short = clip(text)
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert f"{MAX_TEXT} characters left out" in short
    assert clip("short") == "short"


def test_many_runs_with_long_names_leave_the_figures_their_room(tmp_path: Path) -> None:
    """Matplotlib warns where labels leave no room for a plot, and a warning is an error here."""
    for index in range(8):
        folder = f"exp_{'long_' * 12}{index}"
        for mode in ("ar", "linear_spec"):
            write_run(tmp_path / folder, FakeRun(mode=mode, samples=4, salt=f"_{index}", model="m" * 60))
    page = make_page("sweep", series_of(tmp_path), [])
    assert page.count("<figure") >= 7
