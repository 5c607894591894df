"""The chat page in a real Chromium, against a server with made-up answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from trimode.tests.fakes.browser import Browser, find_chromium, open_browser
from trimode.tests.fakes.chat_server import ChatServer, chat_server


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of the page."""
    if find_chromium() is None and os.environ.get("CI") != "true":
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    assert find_chromium() is not None, "CI=true, and Chromium is not installed"
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A server of its own for each test, so that what the browser keeps for its address is new too."""
    with chat_server() as running:
        yield running


class ChatPage:
    """The page as a person uses it."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._seen: set[str] = set()

    def show(self, url: str, width: int = 1300, dark: bool = False, modes: int = 4) -> None:
        """Opens the page and waits for the model's modes. Quick answers are not replayed by themselves."""
        if url not in self._seen:  # another test may have had the same port
            self.browser.send("Storage.clearDataForOrigin", origin=url, storageTypes="all")
            self._seen.add(url)
        self.browser.look(width, dark)
        self.browser.visit(url)
        self.browser.wait_for(f"document.querySelectorAll('#modes input').length === {modes}")
        self.browser.wait_for("document.getElementById('light').classList.contains('ok')")
        self.browser.evaluate("Store.saveSettings({ ...Store.settings(), autoplay: false })")

    def choose(self, mode: str) -> None:
        self.browser.evaluate(f"document.querySelector('#modes input[value=\"{mode}\"]').click()")

    def send(self, question: str) -> None:
        """Sends a question and does not wait."""
        self.browser.evaluate(f"document.getElementById('prompt').value = {json.dumps(question)}")
        self.click("#send")

    def ask(self, question: str, mode: str | None = None) -> None:
        """Sends a question and waits until its answer has ended."""
        if mode is not None:
            self.choose(mode)
        self.send(question)
        self.idle()

    def idle(self) -> None:
        self.browser.wait_for("document.getElementById('stop').hidden && !Chat.isRunning()")

    def click(self, selector: str) -> None:
        self.browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, selector: str) -> str:
        """What is shown of all elements."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.innerText).join('\\n')"
        return str(self.browser.evaluate(found))

    def count(self, selector: str) -> int:
        return int(self.browser.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def set(self, name: str, value: object) -> None:
        """Changes a setting in the dialog."""
        change = (
            "((id, value) => { const e = document.getElementById(id);"
            "if (e.type === 'checkbox') { if (e.checked !== value) e.click(); return; }"
            "e.value = value; for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind)); })"
        )
        self.browser.evaluate(f"{change}({json.dumps(name)}, {json.dumps(value)})")


@pytest.fixture
def page(chromium: Browser) -> ChatPage:
    return ChatPage(chromium)
