"""Text from a server stays text, and the content policy holds."""

from __future__ import annotations

import json

import pytest
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.chat_server import HOSTILE, ChatServer, chat_server

pytestmark = pytest.mark.process


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_html_of_a_model_is_shown_as_text(page: ChatPage, server: ChatServer, mode: str) -> None:
    page.show(server.url)
    page.ask("hostile", mode)
    assert HOSTILE in page.text(".answer .body")
    page.click(".answer .tabs button:nth-child(2)")
    assert page.count("#log img, #log script") == 0
    page.show(server.url)  # from the history
    page.click("#chats .open")
    assert HOSTILE in page.text(".answer .body")
    assert "owned" not in page.browser.evaluate("document.title")
    assert page.browser.complaints() == []


def test_html_in_an_error_in_the_question_and_in_the_model_s_name(page: ChatPage) -> None:
    with chat_server(model=HOSTILE) as server:
        page.show(server.url)
        page.ask(f"refuse {HOSTILE}")
        assert HOSTILE in page.text(".note.wrong")
        assert HOSTILE in page.text(".question .text")
        assert HOSTILE in page.browser.evaluate("document.getElementById('model').textContent")
        page.browser.press("s", alt=True)
        assert HOSTILE in page.text("#server-facts")
        assert page.browser.evaluate("document.title") != "owned"
        assert page.count("img, .app script") == 0


def test_links_lead_to_http_only(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("markdown")
    links = page.browser.evaluate("[...document.querySelectorAll('.body a')].map(a => [a.href, a.rel, a.target])")
    assert links == [["https://example.org/", "noopener noreferrer nofollow", "_blank"]]


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html,<script>)",
        "[x](vbscript:x)",
        "[x]( javascript:alert(1))",
        "[x](\tjavascript:alert(1))",
        "[x](https://a b)",
        "[[[[[[x](x)",
        "<javascript:alert(1)>",
    ],
)
def test_other_links_are_no_links(page: ChatPage, server: ChatServer, text: str) -> None:
    page.show(server.url)
    made = f"(() => {{ const p = document.createElement('p'); p.append(...Markdown.render({json.dumps(text)}));"
    assert page.browser.evaluate(made + "return [p.querySelectorAll('a').length, p.textContent]; })()") == [0, text]


@pytest.mark.parametrize("piece", [*"*`[_|{#\n", "$$", "**", "> ", "- ", "\\boxed{", "~~", "```", "|-|\n"])
def test_markdown_of_a_hundred_thousand_marks_is_drawn(page: ChatPage, server: ChatServer, piece: str) -> None:
    page.show(server.url)
    drawn = page.browser.evaluate(f"Markdown.render({json.dumps(piece)}.repeat(50000) + ' x').length >= 0")
    assert drawn is True


def test_the_policy_stops_inline_code_html_and_other_servers(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.evaluate(
        "window.refused = [];"
        "document.addEventListener('securitypolicyviolation', e => refused.push(e.effectiveDirective)); 1"
    )
    attack = (
        "(async () => { const out = [];"
        "try { document.body.innerHTML = '<b>x</b>'; out.push('html'); } catch { out.push('kept'); }"
        "const b = document.createElement('b'); try { b.setAttribute('onclick', 'x()'); } catch { out.push('kept'); }"
        "try { await fetch('http://127.0.0.1:9/'); out.push('sent'); } catch { out.push('kept'); }"
        "const s = document.createElement('img'); s.src = 'http://127.0.0.1:9/x.png'; document.body.append(s);"
        "await new Promise(done => setTimeout(done, 50)); return out; })()"
    )
    assert set(page.browser.evaluate(attack)) == {"kept"}
    assert {"connect-src", "img-src"} <= set(page.browser.evaluate("refused"))
