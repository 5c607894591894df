"""The page in Chromium in front of the balancer, a worker and the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.balancer_process import ROOT, RunningBalancer, start_balancer, wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]

MODEL = ROOT / "assets" / "demo_model"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBalancer]:
    flags = ("--model", str(MODEL), "--lora", str(MODEL / "linear_spec_lora"), "--dtype", "float32")
    flags += ("--worker-class", "trimode.workers.worker:Worker", "--allow-origin", "null")
    balancer = start_balancer(tmp_path_factory.mktemp("serving"), *flags)
    yield balancer
    balancer.terminate()


def answers(page: ChatPage, field: str) -> list[object]:
    found: list[object] = page.browser.evaluate(f"Chat.current().turns.map(turn => turn.answers[0].{field})")
    return found


def test_the_demo_model_answers_the_suggestions_in_every_mode(page: ChatPage, serving: RunningBalancer) -> None:
    page.show(serving.url, modes=6)
    expected = ("\\boxed{32}", "B", "numbers if n < 11", "<<")
    for number, words in enumerate(expected):
        page.browser.press("n", alt=True)
        page.browser.evaluate(f"document.querySelectorAll('.suggestion')[{number}].click()")
        page.idle()
        question = page.browser.evaluate("Chat.current().turns[0].question")
        for mode in ("ar", "dlm", "linear_spec", "linear_spec+lora"):
            page.ask(question, mode)
        texts = answers(page, "text")
        assert answers(page, "state") == ["done"] * 5
        assert all(words in str(text) for text in texts), texts
        assert texts[1] == texts[3] == texts[4]  # ar, linear_spec with and without adapter
    assert page.browser.complaints() == []


def test_the_passes_lead_to_the_answer(page: ChatPage, serving: RunningBalancer) -> None:
    page.show(serving.url, modes=6)
    question = page.browser.evaluate("Suggestions.of({ id: 'demo_model' })[0][1]")
    for mode in ("ar", "dlm", "linear_spec"):
        page.browser.press("n", alt=True)
        page.ask(question, mode)
        last = (
            "(() => { const { frames, text } = Chat.current().turns[0].answers[0];"
            "const player = new Passes.Player(frames); player.seek(frames.length - 1);"
            "return [text, player.cells.filter(c => 'cv'.includes(c[1])).map(c => c[0]).join('')]; })()"
        )
        text, shown = page.browser.evaluate(last)
        assert shown.startswith(text)


def test_stop_frees_the_worker(page: ChatPage, serving: RunningBalancer) -> None:
    page.show(serving.url, modes=6)
    before = serving.stats()["balancer"]["cancelled"]
    page.browser.evaluate(
        "const body = Modes.body; Modes.body = (...all) => ({ ...body(...all), ignore_eos: true, max_tokens: 8000 }); 1"
    )
    page.send("Write about the ship.")
    page.browser.wait_for("Chat.current().turns[0].answers[0].text.length > 20")
    page.browser.press("Escape")
    page.idle()
    wait_for(lambda: serving.stats()["balancer"]["cancelled"] == before + 1)
    wait_for(lambda: serving.stats()["workers"][0]["engine"]["running"] == 0)
    assert "Stopped." in page.text(".note")


@pytest.mark.parametrize("file", [PROJECT_DIR / "balancer" / "chat_page" / "index.html"], ids=["index.html"])
def test_the_page_from_a_file_is_let_in_by_name(page: ChatPage, serving: RunningBalancer, file: Path) -> None:
    page.browser.look(1300)
    page.browser.open(file)
    page.set("base", serving.url)
    page.browser.wait_for("document.getElementById('light').classList.contains('ok')")
    page.ask("Write about the ship.", "dlm")
    assert answers(page, "state") == ["done"]
