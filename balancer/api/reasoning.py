"""Splits the text of an answer that was made with thinking on: what was thought, and what is the answer."""

from __future__ import annotations

START, END = "<think>", "</think>"


class ReasoningSplitter:
    """Splits a text that comes in parts. What may still become a tag is held back until it is clear."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._ended = False

    def add(self, text: str) -> tuple[str, str]:
        """Returns what the next part adds to the thoughts and to the answer."""
        if self._ended:
            return "", text
        self._held += text
        if not self._begun:
            if len(self._held) < len(START) and START.startswith(self._held):
                return "", ""
            self._held = self._held.removeprefix(START)
            self._begun = True
        thoughts, end, answer = self._held.partition(END)
        if end:
            self._held, self._ended = "", True
            return thoughts, answer
        keep = next((n for n in range(len(END) - 1, 0, -1) if self._held.endswith(END[:n])), 0)
        certain = len(self._held) - keep
        thoughts, self._held = self._held[:certain], self._held[certain:]
        return thoughts, ""

    def rest(self) -> str:
        """Returns the thoughts that were held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def split_reasoning(text: str) -> tuple[str, str]:
    """Returns the thoughts and the answer of a whole text. Without an end of thinking all of it is thoughts."""
    splitter = ReasoningSplitter()
    thoughts, answer = splitter.add(text)
    return thoughts + splitter.rest(), answer
