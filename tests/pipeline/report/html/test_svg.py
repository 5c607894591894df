"""Drawings as SVG elements: ids, colours, hover titles, hostile text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from trimode.pipeline.report.html.svg import INK, SERIES, Drawing, page_style

HOSTILE = "</title><img src=x>\"'&"


def draw(title: str = "a point", label: str = "figure") -> str:
    with page_style():
        drawing = Drawing()
        axes = drawing.figure.subplots()
        (dot,) = axes.plot(1, 2, "o", color=SERIES[0], label=title)
        drawing.tip(dot, title)
        axes.set_title(title, color=INK)
        return drawing.to_svg("name", label)


def test_it_is_one_element_whose_ids_carry_the_name() -> None:
    root = ElementTree.fromstring(draw())
    assert root.tag.endswith("svg")
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids
    assert all(str(one).startswith("name-") for one in ids)


def test_colours_are_those_of_the_page() -> None:
    svg = draw()
    assert "var(--series-0)" in svg
    assert "var(--ink)" in svg
    assert SERIES[0] not in svg


def test_text_is_escaped_in_titles_labels_and_drawings() -> None:
    svg = draw(title=HOSTILE, label=HOSTILE)
    assert "<img" not in svg
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == HOSTILE
    titles = [element.text for element in root.iter() if element.tag.endswith("}title")]
    assert titles == [HOSTILE]


def test_the_same_drawing_gives_the_same_text() -> None:
    assert draw() == draw()
    assert not re.search(r"\d{4}-\d{2}-\d{2}", draw())
