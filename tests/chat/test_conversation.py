"""Turns, their file, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.chat.conversation import Conversation, load
from trimode.core.errors import ConfigError


def test_messages_of_a_request() -> None:
    talk = Conversation(system="be short")
    talk.add("a?", "A.")
    assert talk.messages("b?") == [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "b?"},
    ]
    assert Conversation().messages("b?") == [{"role": "user", "content": "b?"}]


def test_the_last_question_is_taken_back() -> None:
    talk = Conversation()
    assert talk.take_back() is None
    talk.add("a?", "A.")
    talk.add("b?", "B.")
    assert talk.take_back() == "b?"
    assert [turn["content"] for turn in talk.turns] == ["a?", "A."]


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    talk = Conversation(system="s\u00fc\u00df")
    talk.add("a\n?", "\u2028A.")
    talk.save(tmp_path / "c.json", {"model": "m"})
    assert load(tmp_path / "c.json") == talk


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"messages": 1}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "b"}]}',
        '{"messages": [], "system": 1}',
        "[" * 10_000,
    ],
)
def test_what_is_no_conversation_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match="conversation"):
        load(tmp_path / "c.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.json")
