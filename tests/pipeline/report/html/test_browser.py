"""The page in a real Chromium: figures, filters, keys, both colour schemes, a phone's width, a silent console."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from trimode.pipeline.report.__main__ import main
from trimode.tests.fakes.browser import Browser, find_chromium, open_browser
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run

needs_chromium = pytest.mark.skipif(
    find_chromium() is None and os.environ.get("CI") != "true",
    reason="needs Chromium (Debian: apt-get install chromium)",
)
pytestmark = [pytest.mark.process, needs_chromium]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert find_chromium() is not None, "CI=true, and Chromium is not installed"
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = demo_sweep(tmp_path_factory.mktemp("sweep"), samples=30)
    assert main([str(folder)]) == 0
    return folder / "report.html"


def show(browser: Browser, page: Path, width: int = 1300, dark: bool = False) -> None:
    browser.look(width, dark)
    browser.open(page)
    browser.wait_for("document.querySelector('#detail h3')")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_draws_and_nothing_complains(browser: Browser, page: Path, tmp_path: Path, dark: bool) -> None:
    show(browser, page, dark=dark)
    picture = tmp_path / "page.png"
    browser.screenshot(picture)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    pixels = matplotlib.image.imread(picture)[..., :3]
    brightness = float(np.median(pixels))
    assert brightness < 0.3 if dark else brightness > 0.8


def test_every_figure_has_marks_of_its_colours(browser: Browser, page: Path, tmp_path: Path) -> None:
    show(browser, page)
    figures = browser.evaluate("[...document.querySelectorAll('figure svg')].map(s => [s.clientWidth, s.clientHeight])")
    assert len(figures) == 9
    assert all(width > 250 and height > 120 for width, height in figures)
    browser.screenshot(tmp_path / "page.png")
    pixels = (matplotlib.image.imread(tmp_path / "page.png")[..., :3] * 255).round().astype(int)
    for color in ("#33619d", "#c8551b", "#16866a", "#9a3f86"):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(axis=-1) <= 2).sum() > 500


@pytest.mark.parametrize(("width", "columns"), [(1300, 3), (390, 1)])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int, columns: int) -> None:
    show(browser, page, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.querySelector('.plots')).gridTemplateColumns.split(' ').length"
    assert browser.evaluate(style) == columns


def test_filters_narrow_the_list(browser: Browser, page: Path) -> None:
    show(browser, page)
    choose = "((id, value) => { const e = document.getElementById(id); e.value = value; "
    choose += "e.dispatchEvent(new Event('input', {bubbles: true})); })"
    browser.evaluate(f"{choose}('f-run', '1')")
    browser.evaluate(f"{choose}('f-verdict', 'wrong')")
    rows = browser.evaluate("[...document.querySelectorAll('#rows tr')].map(r => r.innerText)")
    assert rows
    assert all("dlm" in row and "wrong" in row for row in rows)
    browser.evaluate(f"{choose}('f-verdict', 'flip')")
    flips = browser.evaluate("[...document.querySelectorAll('#rows tr')].map(r => r.innerText)")
    assert all("⇄" in row for row in flips)
    browser.evaluate(f"{choose}('f-text', 'no such answer')")
    assert browser.evaluate("document.getElementById('count').textContent").startswith("0 answers")


def test_keys_walk_through_samples_and_modes(browser: Browser, page: Path) -> None:
    show(browser, page)
    title = "document.querySelector('#detail h3').textContent"
    pressed = "document.querySelector('.others [aria-pressed=true]').textContent"
    first = browser.evaluate(pressed)
    browser.press("]")
    browser.wait_for(f"{pressed} !== {first!r}")
    assert "dlm" in browser.evaluate(pressed)
    for _ in range(4):
        browser.press("j")
    browser.wait_for(f"{title}.includes('#1,')")
    browser.press("n")
    browser.wait_for("document.getElementById('page').textContent.startsWith('page 2')")
    browser.press("/")
    assert browser.evaluate("document.activeElement.id") == "f-text"
    assert browser.complaints() == []


def test_the_detail_shows_prompt_answer_and_ledger(browser: Browser, page: Path) -> None:
    show(browser, page)
    browser.evaluate("document.querySelectorAll('.others button')[3].click()")
    browser.wait_for("document.querySelector('#detail .cycles')")
    text = browser.evaluate("document.getElementById('detail').innerText")
    for word in ("Prompt", "Answer", "Expected", "Predicted", "verify forwards", "TPF", "same text as ar"):
        assert word in text


def test_hostile_text_stays_text(browser: Browser, tmp_path: Path) -> None:
    hostile = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    write_run(tmp_path, FakeRun(samples=3, hostile=hostile))
    main([str(tmp_path)])
    show(browser, tmp_path / "report.html")
    assert "owned" not in browser.evaluate("document.title")
    assert hostile in browser.evaluate("document.querySelector('#detail pre').textContent")
    assert browser.complaints() == []


def test_twenty_thousand_answers_are_listed_and_filtered(browser: Browser, tmp_path: Path) -> None:
    for mode in ("ar", "dlm"):
        write_run(tmp_path, FakeRun(mode=mode, benchmarks=("demo-math", "demo-mcq"), samples=5000))
    main([str(tmp_path)])
    show(browser, tmp_path / "report.html")
    assert "of 20000 answers" in browser.evaluate("document.getElementById('count').textContent")
    assert browser.evaluate("document.querySelectorAll('#rows tr').length") == 50
