"""Which beginnings of prompts are known to which worker."""

from __future__ import annotations

from typing import Any

from trimode.balancer import prefixes
from trimode.balancer.prefixes import Prefixes, beginnings


def chat(*contents: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


def keys(fields: dict[str, Any]) -> list[int]:
    return [part.key for part in beginnings(fields)]


def test_a_later_turn_begins_like_the_earlier_one() -> None:
    first, later = keys(chat("hello")), keys(chat("hello", "hi", "more"))
    assert later[0] == first[0]
    assert len(set(later)) == 3
    assert keys(chat("other", "hi", "more"))[1] != later[1]


def test_long_texts_and_ids_are_known_by_their_parts() -> None:
    text = "a" * 5000
    assert keys({"prompt": text + "b"})[:4] == keys({"prompt": text + "c"})[:4]
    assert keys({"prompt": text + "b"})[4] != keys({"prompt": text + "c"})[4]
    ids = list(range(600))
    assert keys({"prompt_ids": [*ids, 1]})[:2] == keys({"prompt_ids": [*ids, 2]})[:2]
    assert [part.tokens for part in beginnings({"prompt_ids": ids})] == [256, 512, 600]
    assert len(beginnings({"prompt": "a" * 10**6})) == prefixes.MOST_PARTS
    assert beginnings({"request_id": "r"}) == []


def test_the_longest_beginning_counts() -> None:
    known = Prefixes()
    known.note(beginnings(chat("system " * 40)), 0)
    known.note(beginnings(chat("system " * 40, "hi", "a" * 400)), 1)
    assert known.find(beginnings(chat("system " * 40, "hi", "a" * 400, "b", "c"))) == ({1}, 170)
    assert known.find(beginnings(chat("new"))) == (set(), 0)
    known.forget(1)
    assert known.find(beginnings(chat("system " * 40, "hi", "a" * 400))) == ({0}, 70)


def test_no_more_is_kept_than_allowed() -> None:
    known = Prefixes()
    for number in range(prefixes.MOST_KEYS + 10):
        known.note(beginnings(chat(str(number))), 0)
    assert len(known._slots) == prefixes.MOST_KEYS
    assert known.find(beginnings(chat("0"))) == (set(), 0)
    assert known.find(beginnings(chat(str(prefixes.MOST_KEYS + 9))))[0] == {0}
