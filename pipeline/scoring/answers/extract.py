"""Extracts the final answer of a reply, from its last box or by a pattern, by the rules of NeMo-Skills 0.7.0."""

from __future__ import annotations

import re

DEFAULT_ANSWER_REGEX = r"The final answer is (.+)$"
BOX = "\\boxed"


def last_boxed(text: str) -> str | None:
    """Returns the content of the last `\\boxed{...}`. None if there is none, it is unclosed, or no brace follows."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                inside = start + len(BOX) + 1
                return text[inside:position] if text[inside - 1] == "{" else None
    return None


def last_match(text: str, regex: str) -> str | None:
    """Returns the last match of `regex` (its group, if it has one), or None."""
    matches = re.findall(regex, text)
    return matches[-1] if matches else None


def extract_answer(
    text: str,
    extract_from_boxed: bool = True,
    extract_regex: str = DEFAULT_ANSWER_REGEX,
    relaxed: bool = False,
) -> str | None:
    """Returns the final answer in `text`: from the last box or by `extract_regex`; `relaxed` tries the box first."""
    if relaxed:
        return last_boxed(text) or last_match(text, extract_regex)
    return last_boxed(text) if extract_from_boxed else last_match(text, extract_regex)
