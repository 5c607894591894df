"""Thoughts and answers in a text that comes in parts."""

from __future__ import annotations

import random

import pytest
from trimode.balancer.api.reasoning import ReasoningSplitter, split_reasoning

TEXTS = {
    "hm</think>4": ("hm", "4"),
    "<think>hm</think>4": ("hm", "4"),
    "<think></think>4": ("", "4"),
    "hm": ("hm", ""),
    "": ("", ""),
    "a < b </thin k></think>\n\n</think>": ("a < b </thin k>", "\n\n</think>"),
    "hm</think": ("hm</think", ""),
    "<thin": ("<thin", ""),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_whole_text_is_split_at_the_first_end_of_thinking(text: str) -> None:
    assert split_reasoning(text) == TEXTS[text]


@pytest.mark.parametrize("text", TEXTS)
def test_parts_of_any_size_give_the_same(text: str) -> None:
    for seed in range(20):
        chance, splitter = random.Random(seed), ReasoningSplitter()
        thoughts = answer = ""
        at = 0
        while at < len(text):
            size = chance.randint(1, 4)
            more_thoughts, more_answer = splitter.add(text[at : at + size])
            thoughts, answer, at = thoughts + more_thoughts, answer + more_answer, at + size
        assert (thoughts + splitter.rest(), answer) == TEXTS[text]
