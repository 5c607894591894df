"""The denoise view and the replay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.chat_server import ANSWER, ChatServer
from trimode.tests.fakes.decoder_scripts import MODES, tokens_of

pytestmark = pytest.mark.process

TOKENS = tokens_of(ANSWER)
SHOWN_TOKENS = "[...document.querySelectorAll('.passes .token')].map(one => one.className.split(' ')[1])"


def slide(page: ChatPage, step: int) -> list[str]:
    """Moves the slider and returns the kinds of the tokens that are shown."""
    page.browser.evaluate(
        f"(() => {{ const s = document.querySelector('.replay input'); s.value = {step};"
        "s.dispatchEvent(new Event('input')); })()"
    )
    kinds: list[str] = page.browser.evaluate(SHOWN_TOKENS)
    return kinds


def test_masks_fill_in_while_the_answer_is_written(page: ChatPage, server: ChatServer) -> None:
    server.pause_s = 0.4
    page.show(server.url)
    page.choose("dlm")
    page.browser.evaluate(
        "window.masks = new Set(); new MutationObserver(() => "
        "window.masks.add(document.querySelectorAll('.passes .mask').length))"
        ".observe(document.getElementById('log'), { subtree: true, childList: true }); 1"
    )
    page.send("hello")
    page.browser.wait_for("document.querySelector('.passes .mask')")
    page.idle()
    assert len(page.browser.evaluate("[...window.masks]")) >= 3
    assert not page.browser.evaluate("document.querySelector('.answer .body').hidden")  # the text stands at the end


@pytest.mark.parametrize("block_length", [4, 32])
def test_each_step_of_dlm_shows_the_block_as_the_pass_left_it(
    page: ChatPage, server: ChatServer, block_length: int
) -> None:
    page.show(server.url)
    page.set("set-dlm_block", block_length)
    page.ask("hello", "dlm")
    states: list[list[str]] = []
    for part in MODES["dlm"](TOKENS, block_length):
        assert part.event is not None
        before = ["committed"] * part.event["start"]
        if part.event["pass"] == 1:  # the first token of a block is there before its first pass
            states.append([*before, "committed", *["mask"] * (len(part.event["tokens"]) - 1)])
        states.append([*before, *(entry["state"] for entry in part.event["tokens"])])
    for step in [*range(len(states)), 0]:
        assert slide(page, step) == states[step]
    assert f"1/{len(states)} · block 1, before the first pass: 1 of" in page.text(".replay .caption")


def test_confidence_is_shown_by_tint_by_bar_and_in_words(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello", "dlm")
    slide(page, 99)
    token = "document.querySelectorAll('.passes .token')"
    assert "grade-5" in page.browser.evaluate(f"{token}[0].className")  # 0.998
    assert "grade-1" in page.browser.evaluate(f"{token}[6].className")  # 0.4
    bars = page.browser.evaluate(f"[0, 6].map(i => getComputedStyle({token}[i]).backgroundSize.split(' ')[0])")
    assert bars == ["100%", "20%"]
    assert page.browser.evaluate(f"{token}[0].title") == "committed, confidence 0.998, pass 0"
    assert page.count(".legend li") == 7


def test_drafts_turn_black_or_are_struck(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello", "linear_spec")
    draft, verified = slide(page, 1), slide(page, 2)
    assert draft == ["committed", *["draft"] * 31]
    assert verified == ["committed", *["verified"] * 5, "committed", *["struck"] * 26]
    style = "getComputedStyle(document.querySelector('.passes .struck')).textDecorationLine"
    assert page.browser.evaluate(style) == "line-through"
    colors = "['verified', 'struck'].map(kind => getComputedStyle(document.querySelector('.passes .' + kind)).color)"
    assert page.browser.evaluate(colors)[0] == page.browser.evaluate("getComputedStyle(document.body).color")
    assert slide(page, 3)[:7] == verified[:7]  # what was struck is gone when the next draft comes
    assert "struck" not in slide(page, 3)
    words = page.browser.evaluate("document.querySelector('.replay input').getAttribute('aria-valuetext')")
    assert words.startswith("Step 4 of ")
    assert "cycle 2, draft pass 1: 30 tokens drafted" in words


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_the_last_step_is_the_answer(page: ChatPage, server: ChatServer, mode: str) -> None:
    page.show(server.url)
    page.ask("hello", mode)
    slide(page, 9999)
    kept = "[...document.querySelectorAll('.passes .token:not(.struck, .draft)')]"
    assert page.browser.evaluate(f"{kept}.map(one => one.parentNode.textContent).join('')") == ANSWER


def test_the_replay_plays_pauses_and_obeys_keys(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.set("set-dlm_block", 4)
    page.ask("hello", "dlm")
    page.browser.evaluate("window.speed = document.querySelector('.replay select'); speed.value = '0.5'; 1")
    page.browser.evaluate("speed.dispatchEvent(new Event('change'))")
    position = "Number(document.querySelector('.replay input').value)"
    page.browser.press("p", alt=True)
    assert page.browser.evaluate("document.activeElement.type") == "range"
    page.browser.wait_for(f"{position} >= 2")
    page.browser.press(" ")
    assert page.browser.evaluate("document.querySelector('.play').title") == "Replay the passes"
    at = page.browser.evaluate(position)
    page.browser.press("ArrowRight")
    assert page.browser.evaluate(position) == at + 1
    page.browser.press("Home")
    assert page.browser.evaluate(position) == 0
    page.browser.press("End")
    page.browser.press("ArrowLeft")
    last = page.browser.evaluate("Number(document.querySelector('.replay input').max)")
    assert page.browser.evaluate(position) == last - 1
    page.browser.press(" ")
    page.browser.wait_for(f"{position} === {last} && document.querySelector('.play').title === 'Replay the passes'")


PLAYS = """
window.plays = [];
PassesView.View.prototype.play = (play => function (how) { plays.push(how); play.call(this, how); })(
  PassesView.View.prototype.play);
Store.saveSettings({ ...Store.settings(), autoplay: true });
"""


def test_a_quick_answer_is_replayed_once_and_then_shown(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.evaluate(PLAYS + "performance.now = () => 0; 1")  # every answer is quick
    page.ask("hello", "dlm")
    assert page.browser.evaluate("plays.length") == 1
    assert "NFE" in page.text(".stats summary")  # the numbers do not wait
    page.browser.wait_for("document.querySelector('.play').title === 'Replay the passes'")
    page.browser.wait_for("!document.querySelector('.answer .body').hidden")
    page.ask("again", "dlm")
    slide(page, 1)  # a person takes over
    assert page.browser.evaluate("document.querySelector('.answer .body').hidden")


def test_a_slow_answer_is_not_replayed(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.evaluate(PLAYS + "performance.now = (at => () => at += 9000)(0); 1")
    page.ask("hello", "dlm")
    assert page.browser.evaluate("plays") == []
    assert not page.browser.evaluate("document.querySelector('.answer .body').hidden")


def test_the_passes_are_not_asked_for_when_switched_off(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.set("set-passes", False)
    page.ask("hello", "dlm")
    assert "stream_events" not in server.bodies[0]
    assert page.browser.evaluate("document.querySelector('.answer .tabs').hidden")


def test_white_space_and_empty_tokens_are_seen(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    frames: list[dict[str, Any]] = [
        {"m": "dlm", "b": 0, "p": 1, "s": 0, "t": [[text, "c", 0.9, 1] for text in ("", " ", "\n", " a", "\t")]}
    ]
    make = "new PassesView.View({ frames: %s, label: 'x', fields: { mode: 'dlm' }, state: 'done' }, () => {})"
    shown = page.browser.evaluate(
        f"(() => {{ const v = {make % json.dumps(frames)}; v.update();"
        "return [...v.stage.querySelectorAll('.token')].map(one => one.textContent); })()"
    )
    assert shown == ["·", "␣", "↵\n", "a", "⇥\t"]
