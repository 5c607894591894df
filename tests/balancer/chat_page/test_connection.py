"""Servers that are away, come back, want a key, or refuse a page that was opened from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.balancer.chat_page.__main__ import main
from trimode.core.project import PROJECT_DIR
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.chat_server import ANSWER, ChatServer, chat_server

pytestmark = pytest.mark.process


def test_a_server_that_goes_away_and_comes_back(page: ChatPage, server: ChatServer) -> None:
    server.model = "large"
    page.show(server.url)
    page.ask("hello")
    server.stop()
    page.ask("are you there?")
    assert "cannot be reached" in page.text(".note.wrong")
    page.browser.wait_for("!document.getElementById('banner').hidden")
    assert "does not answer" in page.text("#banner")
    assert page.count(".answer") == 2
    server.start()
    page.browser.wait_for("document.getElementById('banner').hidden")
    assert "back" in page.text("#toast")
    page.click("[aria-label^='Retry']")
    page.idle()
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["hello", ANSWER, "are you there?"]


def test_a_server_that_ends_in_the_middle_of_an_answer(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.send("slow")
    page.browser.wait_for("Chat.current().turns[0].answers[0].text.length > 3")
    server.stop()
    page.idle()
    assert "in the middle of the answer" in page.text(".note.wrong")
    assert page.browser.evaluate("Chat.current().turns[0].answers[0].text").startswith(ANSWER[:4])


def test_another_model_after_a_restart_is_noticed(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    server.stop()
    page.browser.evaluate("Connection.again(); 1")
    page.browser.wait_for("!document.getElementById('banner').hidden")
    server.model = "another"
    server.start()
    page.browser.wait_for("document.getElementById('model').textContent === 'another'")


def test_a_key_is_asked_for_and_ends_with_the_tab(page: ChatPage) -> None:
    with chat_server(api_key="secret") as server:
        page.browser.look(1300)
        page.browser.visit(server.url)
        page.browser.wait_for("document.getElementById('banner').innerText.includes('API key')")
        page.click("#banner button")
        assert page.browser.evaluate("document.activeElement.id") == "api-key"
        page.set("api-key", "secret")
        page.browser.wait_for("document.getElementById('banner').hidden")
        page.browser.press("Escape")
        page.ask("hello")
        assert page.text(".note.wrong") == ""
        assert "secret" not in page.browser.evaluate("JSON.stringify({ ...localStorage })")
        assert "secret" in page.browser.evaluate("JSON.stringify({ ...sessionStorage })")


@pytest.fixture(params=["one file", "the files of the checkout"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "one file":
        assert main(["--out", str(tmp_path / "chat.html")]) == 0
        return tmp_path / "chat.html"
    return PROJECT_DIR / "balancer" / "chat_page" / "index.html"


def from_file(page: ChatPage, file: Path, server: ChatServer) -> None:
    """Opens the page from disk and enters the server's address."""
    page.browser.look(1300)
    page.browser.open(file)
    page.browser.evaluate("Store.saveSettings({ ...Store.settings(), autoplay: false })")
    page.browser.press("s", alt=True)
    page.set("base", server.url + "/")
    page.browser.press("Escape")


def test_the_page_works_from_a_file(page: ChatPage, file: Path) -> None:
    with chat_server(cors_origin="null") as server:
        from_file(page, file, server)
        page.browser.wait_for("document.getElementById('light').classList.contains('ok')")
        page.ask("hello", "dlm")
        assert "stickers" in page.text(".answer .body")
        asked = [url for url in page.browser.requests() if not url.startswith(("file:", "http://127.0.0.1:"))]
        assert asked == []


def test_a_server_that_does_not_allow_files_is_told_apart_from_one_that_is_away(page: ChatPage, file: Path) -> None:
    with chat_server() as server:
        from_file(page, file, server)
        page.browser.wait_for("document.getElementById('banner').innerText.includes('--allow-origin null')")
        server.stop()
        page.browser.wait_for("document.getElementById('banner').innerText.includes('does not answer')")
