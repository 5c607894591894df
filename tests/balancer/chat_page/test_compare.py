"""One prompt to several modes, side by side."""

from __future__ import annotations

import pytest
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.chat_server import ANSWER, ChatServer

pytestmark = pytest.mark.process

DONE = "!document.getElementById('compare-run').hidden && document.querySelectorAll('#compare-table tbody tr').length"


def compare(page: ChatPage, prompt: str) -> None:
    page.browser.evaluate(f"Main.show('compare'); document.getElementById('compare-prompt').value = {prompt!r}; 1")
    page.click("#compare-run")


def test_all_modes_answer_one_prompt(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    compare(page, "hello")
    page.browser.wait_for(DONE)
    assert [body["mode"] for body in server.bodies] == ["ar", "dlm", "linear_spec", "linear_spec"]
    assert page.count("#compare-answers .answer") == 4
    rows = page.browser.evaluate(
        "[...document.querySelectorAll('#compare-table tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [row[-1] for row in rows] == ["(first)", "same", "same", "same"]
    assert rows[0][6] == "1.00"
    assert all(row[1].strip().endswith("s") for row in rows)
    assert page.browser.complaints() == []


def test_all_answers_are_replayed_at_one_pace(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    compare(page, "hello")
    page.browser.wait_for(DONE)
    page.browser.evaluate("window.paces = []; PassesView.View.prototype.play = how => paces.push(how.stepMs); 1")
    page.click("#compare-replay")
    paces = page.browser.evaluate("paces")
    assert len(paces) == 4
    assert len(set(paces)) == 1


def test_the_table_is_copied_as_markdown(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    compare(page, "hello")
    page.browser.wait_for(DONE)
    page.browser.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }; 1")
    page.click("#compare-copy")
    page.browser.wait_for("window.copied")
    lines = page.browser.evaluate("window.copied").split("\n")
    assert lines[0] == "| mode | time | tokens/s | first token | tokens | NFE | TPF | accepted | text |"
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| ar", "| dlm", "| linear_spec", "| linear_spec + LoRA"]


def test_modes_can_be_left_out_and_run_at_once(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.click("#compare-modes input[value='ar']")
    page.click("#compare-parallel")
    compare(page, "hello")
    page.browser.wait_for(DONE)
    assert sorted(body["mode"] for body in server.bodies) == ["dlm", "linear_spec", "linear_spec"]


def test_a_comparison_stops(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    compare(page, "slow")
    page.browser.wait_for("document.querySelector('#compare-answers .token')")
    page.browser.press("Escape")
    page.browser.wait_for(DONE)
    assert len(server.bodies) == 1  # the other modes are not asked any more
    assert page.text("#compare-table").count("stopped") == 4
    assert page.count("#compare-answers .note label") == 0


def test_a_failure_of_one_mode_leaves_the_others(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    compare(page, "break")
    page.browser.wait_for(DONE)
    assert page.text("#compare-table").count("failed") == 4
    assert page.count("#compare-answers .note.wrong") == 4


def test_a_question_of_the_chat_is_taken_over(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello")
    page.click("[aria-label^='Compare modes']")
    assert page.browser.evaluate("document.getElementById('compare-prompt').value") == "hello"
    page.browser.press("Enter")
    page.browser.wait_for(DONE)
    assert ANSWER[:5] in page.text("#compare-answers .body")
    page.browser.press("c", alt=True)
    assert page.browser.evaluate("document.getElementById('compare-view').hidden")
