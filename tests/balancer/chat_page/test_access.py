"""Use by keyboard and screen reader, small windows, both colour schemes."""

from __future__ import annotations

from typing import Any

import pytest
from trimode.tests.balancer.chat_page.conftest import ChatPage
from trimode.tests.fakes.chat_server import ChatServer

pytestmark = pytest.mark.process

UNNAMED = """
(() => {
  const texts = nodes => nodes.map(node => node?.textContent ?? '').join('');
  const kinds = 'button, input, select, textarea, a[href], summary, dialog, [role=img], [role=region], [role=group]';
  const shown = [...document.querySelectorAll(kinds)].filter(e => e.checkVisibility({ visibilityProperty: true }));
  return shown.filter(e => {
    const by = (e.getAttribute('aria-labelledby') ?? '').split(' ').map(id => document.getElementById(id));
    const own = /BUTTON|A|SUMMARY/.test(e.tagName) ? e.innerText : '';
    return !(e.getAttribute('aria-label') || texts(by) || texts([...(e.labels ?? [])]) || own).trim();
  }).map(e => e.outerHTML.slice(0, 120));
})()
"""
"""Controls and regions on the screen that a screen reader could not name."""
CONTRAST = """
(() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = color => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data].map((v, i) => i < 3 ? v : v / 255);
  };
  const over = (top, below) => below.map((v, i) => top[i] * top[3] + v * (1 - top[3]));
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const fill = e => rgba(getComputedStyle(e).backgroundColor);
  const back = e => e === null ? [255, 255, 255] : over(fill(e), back(e.parentElement));
  const poor = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.checkVisibility({ visibilityProperty: true })) continue;
    if (e.closest('.sr, .skip, script, style, option, .mask, :disabled')) continue;
    const below = back(e);
    const [dim, bright] = [light(over(rgba(getComputedStyle(e).color), below)), light(below)].sort((a, b) => a - b);
    const ratio = (bright + .05) / (dim + .05);
    if (ratio < 4.5) poor.add(`${ratio.toFixed(2)} ${e.className} ${e.textContent.slice(0, 30)}`);
  }
  return [...poor];
})()
"""
"""Texts whose contrast is below that of WCAG's level AA."""
SHOW_PASSES = """
document.querySelectorAll('.answer:has(.tabs:not([hidden]))').forEach(answer => {
  answer.querySelectorAll('.tabs button')[1].click();
  const slider = answer.querySelector('.replay input');
  slider.value = 2;
  slider.dispatchEvent(new Event('input'));
})
"""
MISSED = """
[...document.querySelectorAll('button, input, textarea, select, summary')]
  .filter(e => e.checkVisibility() && !e.disabled && !(e.type === 'radio' && !e.checked) && !window.reached.has(e))
  .map(e => e.outerHTML.slice(0, 99))
"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def visit_states(page: ChatPage) -> Any:
    """The page in each of its states: empty, with answers, passes, an error, the dialogs, and a comparison."""
    yield "empty"
    page.ask("markdown", "linear_spec")
    page.ask("hello", "dlm")
    page.ask("refuse")
    page.browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    yield "answers"
    page.browser.evaluate(SHOW_PASSES)
    yield "passes"
    page.click("[aria-label='Edit question']")
    yield "edit"
    page.browser.evaluate("Settings.open(); 1")
    yield "settings"
    page.browser.press("Escape")
    page.browser.evaluate("document.getElementById('help').showModal()")
    yield "keys"
    page.browser.press("Escape")
    page.browser.evaluate("Main.show('compare'); Compare.offer('hello'); 1")
    page.click("#compare-run")
    page.browser.wait_for("!document.getElementById('compare-run').hidden")
    yield "comparison"


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (1300, True), (360, False), (360, True)])
def test_names_contrast_and_width_in_every_state(page: ChatPage, server: ChatServer, width: int, dark: bool) -> None:
    page.show(server.url, width, dark)
    for state in visit_states(page):
        page.browser.evaluate("Promise.all(document.getAnimations().map(a => a.finish?.())).then(() => 1)")
        assert page.browser.evaluate(UNNAMED) == [], state
        assert page.browser.evaluate(CONTRAST) == [], state
        assert page.browser.evaluate(TOO_WIDE) <= 0, state
        ids = page.browser.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)), state
    refused = "responded with a status of 400"  # the browser's own note on the answer to `refuse`
    assert [one for one in page.browser.complaints() if refused not in one] == []


def test_a_conversation_by_keyboard_alone(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    press = page.browser.press
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    assert page.browser.evaluate("document.activeElement.id") == "prompt"
    page.browser.type("one\ntwo")
    press("Tab")  # to the modes
    press("ArrowRight")
    assert page.browser.evaluate("document.querySelector('#modes :checked').value") == "dlm"
    press("m", alt=True)
    assert page.browser.evaluate("document.querySelector('#modes :checked').value") == "linear_spec"
    press("Tab")
    assert page.browser.evaluate(focused) == "Send"
    press("Enter")
    page.idle()
    assert server.bodies[0]["mode"] == "linear_spec"
    assert server.bodies[0]["messages"][0]["content"] == "one\ntwo"
    assert page.browser.evaluate("document.activeElement.id") == "prompt"  # not lost when the button changed
    press("p", alt=True)
    assert page.browser.evaluate("document.activeElement.type") == "range"
    press("/")
    assert page.browser.evaluate("document.activeElement.id") == "prompt"
    press("ArrowUp")
    assert "Edited question" in page.browser.evaluate(focused)
    press("Escape")
    assert page.count(".question textarea") == 0
    press("m", alt=True)
    press("r", alt=True)
    page.idle()
    assert server.bodies[1]["lora"] is True
    press("s", alt=True)
    assert page.browser.evaluate("document.getElementById('settings').open")
    press("Escape")
    press("c", alt=True)
    assert page.browser.evaluate("document.activeElement.id") == "compare-prompt"
    press("c", alt=True)
    press("n", alt=True)
    assert page.count(".suggestion") == 4
    press("t", alt=True)
    assert page.browser.evaluate("document.documentElement.dataset.theme") == "light"


def test_tab_reaches_every_control_that_is_shown(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.ask("hello", "dlm")
    page.browser.evaluate("document.body.tabIndex = -1; document.body.focus(); window.reached = new Set(); 1")
    for _ in range(60):
        page.browser.press("Tab")
        page.browser.evaluate("window.reached.add(document.activeElement); 1")
    assert page.browser.evaluate(MISSED) == []


def test_a_screen_reader_hears_the_answer_once(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url)
    page.browser.evaluate(
        "window.heard = []; new MutationObserver(() => heard.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), { childList: true, characterData: true, subtree: true }); 1"
    )
    page.ask("hello", "ar")  # 37 tokens
    page.browser.wait_for("window.heard.length >= 2")
    heard = page.browser.evaluate("window.heard")
    assert len(heard) == 2
    assert heard[0] == "The answer is being written."
    assert heard[1].startswith("Answer complete. 37 tokens")
    assert "stickers" in heard[1]
    assert page.browser.evaluate("document.getElementById('log').getAttribute('aria-live')") == "off"


def test_the_colours_follow_the_system_until_they_are_chosen(page: ChatPage, server: ChatServer) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    page.show(server.url, dark=False)
    light = page.browser.evaluate(back)
    page.show(server.url, dark=True)
    dark = page.browser.evaluate(back)
    assert light != dark
    page.click("#theme")
    assert page.browser.evaluate(back) == light
    page.show(server.url, dark=True)
    assert page.browser.evaluate(back) == light


def test_the_list_of_chats_opens_on_a_phone(page: ChatPage, server: ChatServer) -> None:
    page.show(server.url, width=360)
    page.ask("hello")
    assert not page.browser.evaluate(
        "document.getElementById('new-chat').checkVisibility({ visibilityProperty: true })"
    )
    page.click("#menu")
    page.browser.wait_for("document.activeElement.id === 'new-chat'")
    assert page.browser.evaluate("document.getElementById('menu').ariaExpanded") == "true"
    page.click("#chats .open")
    assert not page.browser.evaluate("document.body.classList.contains('with-sidebar')")
    page.click("#menu")
    page.browser.press("Escape")
    assert not page.browser.evaluate("document.body.classList.contains('with-sidebar')")
