"""Chatting: answers, modes, stop, errors, retry, edit, history."""

from __future__ import annotations

import json
import time

import pytest
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.browser import TIMEOUT_S
from trimode.tests.fakes.chat_server import ANSWER, ChatServer, chat_server

pytestmark = pytest.mark.process

SHOWN = ANSWER.replace("\\boxed{32}", "32")


def test_an_answer_streams_and_its_numbers_are_shown(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("How many stickers?", "linear_spec")
    assert SHOWN in page.text(".answer .body")
    for name in ("tok/s", "first token", "tokens", "NFE", "TPF", "accepted"):
        assert name in page.text(".stats summary")
    assert page.browser.complaints() == []


def test_nothing_is_asked_of_another_server(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    for mode in ("ar", "dlm", "linear_spec", "linear_spec+lora"):
        page.ask("markdown", mode)
    assert page.count(".answer .body a") == 4  # links are shown, and nobody follows them
    assert {url for url in page.browser.requests() if not url.startswith(server.url)} == set()


def test_each_message_has_its_mode(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    for mode in ("ar", "dlm", "linear_spec", "linear_spec+lora"):
        page.ask("hello", mode)
    assert [(body["mode"], body.get("lora", False)) for body in server.bodies] == [
        ("ar", False),
        ("dlm", False),
        ("linear_spec", False),
        ("linear_spec", True),
    ]
    assert page.text(".answer .chip span").split("\n") == ["ar", "dlm", "linear_spec", "linear_spec + LoRA"]
    assert server.bodies[1]["block_length"] == 32
    assert server.bodies[1]["threshold"] == 0.9
    assert "block_length" not in server.bodies[0]


def test_a_mode_of_the_server_that_the_page_does_not_know_is_offered(page: ChatPage) -> None:
    with chat_server(modes=["ar", "auto", "novel"], lora=False) as server:
        page.show(server.url, modes=3)
        page.ask("hello", "auto")
        assert server.bodies[0]["mode"] == "auto"
        assert "novel" in page.text("#modes")


def test_all_settings_are_sent_and_outlive_a_reload(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.press("s", alt=True)
    wanted = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "max_tokens": 100,
        "seed": 5,
        "spec_block": 16,
    }
    for name, value in {**wanted, "stop": "END\\n\nXX", "system": "Be brief.", "acceptance": "equality"}.items():
        page.set(f"set-{name}", value)
    page.set("set-thinking", True)
    page.browser.press("Escape")
    page.show(server.url)
    page.ask("hello", "linear_spec")
    body = server.bodies[0]
    wanted["block_length"] = wanted.pop("spec_block")
    assert {name: body[name] for name in wanted} == wanted
    assert body["stop"] == ["END\n", "XX"]
    assert body["acceptance"] == "equality"
    assert body["enable_thinking"] is True
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


def test_a_setting_that_is_not_valid_is_named_and_not_kept(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.press("s", alt=True)
    page.set("set-top_p", 1.5)
    page.set("set-max_tokens", 99999)
    assert "from 0.01 to 1" in page.text("#set-top_p-hint")
    assert "from 1 to 4096" in page.text("#set-max_tokens-hint")  # the context of the model
    page.browser.press("Escape")
    page.ask("hello")
    assert "top_p" not in server.bodies[0]
    assert "max_tokens" not in server.bodies[0]


def test_without_streaming_the_answer_comes_in_one_piece(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.press("s", alt=True)
    page.set("set-stream", False)
    page.browser.press("Escape")
    page.ask("hello", "dlm")
    assert SHOWN in page.text(".answer .body")
    assert "NFE" in page.text(".stats summary")
    assert "stream" not in server.bodies[0]


def test_the_end_stays_in_view_until_the_person_scrolls_away(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url, width=500)
    left = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.getElementById('scroller'))"
    for _ in range(3):
        page.ask("markdown")
    page.browser.wait_for(f"{left} < 5")
    page.send("slow")
    page.browser.wait_for("Chat.current().turns.at(-1).answers[0].text.length > 3")
    page.browser.wait_for(f"{left} < 5")
    page.browser.evaluate("document.getElementById('scroller').scrollTop = 100")
    shown = page.browser.evaluate("Chat.current().turns.at(-1).answers[0].text.length")
    page.browser.wait_for(f"Chat.current().turns.at(-1).answers[0].text.length > {shown}")
    page.browser.press("Escape")
    page.idle()
    assert page.browser.evaluate("document.getElementById('scroller').scrollTop") == 100


def test_thinking_is_shown_apart_and_not_sent_back(page: ChatPage, server: ChatServer) -> None:
    server.model = "large"
    page.show(server.url)
    page.ask("think")
    assert page.text(".thinking summary") == "Thinking"
    assert page.browser.evaluate("document.querySelector('.thinking pre').textContent") == "Let me see."
    assert SHOWN in page.text(".answer .body")
    page.ask("next")
    assert server.bodies[1]["messages"][1]["content"] == ANSWER


def wait_until_hung_up(server: ChatServer) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while server.hung_up == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stop_ends_the_generation_and_marks_the_answer(page: ChatPage, server: ChatServer) -> None:
    server.model = "large"
    page.show(server.url)
    page.choose("ar")
    page.send("slow")
    page.browser.wait_for("Chat.current().turns[0].answers[0].text.length > 10")
    page.browser.evaluate("document.getElementById('prompt').focus()")
    page.browser.type("impatient")
    page.browser.press("Enter")  # no second request beside the first
    assert page.browser.evaluate("document.getElementById('prompt').value") == "impatient"
    page.browser.wait_for("!document.getElementById('stop').disabled")
    page.click("#stop")
    page.idle()
    wait_until_hung_up(server)
    assert server.finished == 0
    assert "Stopped." in page.text(".note")
    page.browser.press("Enter")
    page.idle()
    assert [message["content"] for message in server.bodies[1]["messages"]] == ["impatient"]
    assert len(server.bodies) == 2


def test_a_stopped_answer_is_sent_along_only_when_the_person_says_so(page: ChatPage, server: ChatServer) -> None:
    server.model = "large"
    page.show(server.url)
    page.send("slow")
    page.browser.wait_for("Chat.current().turns[0].answers[0].text.length > 10")
    page.browser.press("Escape")
    page.idle()
    page.click(".note input")
    page.ask("next")
    roles = [message["role"] for message in server.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert ANSWER.startswith(server.bodies[1]["messages"][1]["content"][:10])


@pytest.mark.parametrize(("question", "words"), [("refuse", "threshold: got"), ("break", "the worker died")])
def test_an_error_is_shown_in_words_and_is_no_answer(
    page: ChatPage, server: ChatServer, question: str, words: str
) -> None:
    server.model = "large"
    page.show(server.url)
    page.ask(question)
    assert words in page.text(".note.wrong")
    page.ask("next")
    assert [message["content"] for message in server.bodies[1]["messages"]] == ["next"]


def test_earlier_turns_are_sent_unless_switched_off(page: ChatPage, server: ChatServer) -> None:
    server.model = "large"
    page.show(server.url)
    page.ask("one")
    page.ask("two")
    assert [message["content"] for message in server.bodies[1]["messages"]] == ["one", ANSWER, "two"]
    page.set("set-earlier_turns", "never")
    page.ask("three")
    assert [message["content"] for message in server.bodies[2]["messages"]] == ["three"]


def test_the_demo_model_gets_single_questions_unless_the_person_wants_more(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("one")
    page.ask("two")
    assert [message["content"] for message in server.bodies[1]["messages"]] == ["two"]
    page.set("set-earlier_turns", "always")
    page.ask("three")
    assert len(server.bodies[2]["messages"]) == 5


def test_retry_adds_an_answer_in_the_mode_chosen_now(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello", "ar")
    page.choose("dlm")
    page.click("[aria-label^='Retry']")
    page.idle()
    assert page.text(".answer .chip span") == "dlm"
    assert page.text(".pager") == "2 / 2"
    page.click("[aria-label='Earlier answer']")
    assert page.text(".answer .chip span") == "ar"
    assert server.bodies[0]["messages"] == server.bodies[1]["messages"]


def test_edit_asks_again_and_drops_later_turns(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("one")
    page.ask("two")
    page.click("[aria-label='Edit question']")
    assert "1 later turn will be removed" in page.text(".edit-buttons")
    page.browser.evaluate("document.querySelector('.question textarea').select()")
    page.browser.type("changed")
    page.browser.press("Enter")
    page.idle()
    assert [message["content"] for message in server.bodies[2]["messages"]] == ["changed"]
    assert page.text(".question .text") == "changed"
    assert "changed" in page.text("#chats")


def test_chats_stay_in_the_browser_until_they_are_deleted(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("first chat", "dlm")
    page.browser.press("n", alt=True)
    page.ask("second chat")
    page.show(server.url)
    titles = "[...document.querySelectorAll('#chats .title')].map(one => one.textContent)"
    assert page.browser.evaluate(titles) == ["second chat", "first chat"]
    page.browser.evaluate("document.querySelectorAll('#chats .open')[1].click()")
    assert SHOWN in page.text(".answer .body")
    page.click(".answer .tabs button:nth-child(2)")
    assert page.count(".passes .token") > 10  # the replay is kept too
    page.click("#chats li:nth-child(2) .bare")
    assert page.browser.evaluate(titles) == ["second chat"]
    page.click("#toast button")
    assert page.browser.evaluate(titles) == ["second chat", "first chat"]
    page.click("#delete-all")
    assert page.browser.evaluate(titles) == []
    assert page.browser.evaluate("Object.keys(localStorage).filter(key => key.startsWith('trimode.chat'))") == []


def test_a_chat_that_is_deleted_while_it_is_written_stays_deleted(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.send("slow")
    page.browser.wait_for("document.querySelector('#chats .bare')")
    page.click("#chats .bare")
    page.idle()
    wait_until_hung_up(server)
    assert page.browser.evaluate("Store.chats().length") == 0


def test_a_page_without_storage_still_chats(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.evaluate("Storage.prototype.setItem = () => { throw new Error('full'); }; 1")
    page.ask("hello")
    assert SHOWN in page.text(".answer .body")
    assert "storage is full" in page.text("#toast")


def test_a_chat_is_saved_as_markdown_and_json(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello", "linear_spec")
    page.browser.evaluate("window.saved = []; Dom.download = (...file) => window.saved.push(file); 1")
    written = page.browser.evaluate("History.asMarkdown(Chat.current())")
    assert written.startswith("# hello\n\n## Question\n\nhello\n\n## Answer, linear_spec\n\n")
    assert ANSWER in written
    assert "NFE" in written
    page.click("#export-json")


def test_copying_gives_the_text_of_the_model(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello")
    page.browser.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }; 1")
    page.click("[aria-label='Copy answer']")
    page.browser.wait_for("window.copied")
    assert page.browser.evaluate("window.copied") == ANSWER
    assert json.loads(page.browser.evaluate("JSON.stringify(window.copied)")) == ANSWER
