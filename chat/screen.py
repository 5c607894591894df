"""What a chat writes on the terminal."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
THOUGHT_END = "</think>"


def without_control(text: str) -> str:
    """Returns text without characters that would act on a terminal. A model must not move the cursor."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs"))


class Screen:
    """Writes answers part by part, thoughts dimmed on a terminal, and notes on stderr."""

    def __init__(self, out: TextIO | None = None, notes: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._notes = sys.stderr if notes is None else notes
        self._is_terminal = self._out.isatty()
        self._dimmed = False
        self._seen = ""

    def begin(self, thinking: bool) -> None:
        """Starts an answer. `thinking`: it begins with thoughts."""
        self._dimmed = thinking and self._is_terminal
        self._seen = ""
        if self._dimmed:
            self._out.write(DIM)

    def part(self, text: str) -> None:
        """Writes a part of an answer."""
        self._out.write(without_control(text))
        if self._dimmed:
            self._seen = (self._seen + text)[-len(text) - len(THOUGHT_END) :]
            if THOUGHT_END in self._seen:
                self._plain()
        self._out.flush()

    def end(self, stats: str) -> None:
        """Ends an answer with the line of what it cost."""
        self._plain()
        style = (DIM, PLAIN) if self._is_terminal else ("", "")
        print(f"\n{style[0]}{stats}{style[1]}", file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Writes a note, not part of any answer."""
        self._plain()
        self._out.flush()
        print(without_control(text), file=self._notes, flush=True)

    def _plain(self) -> None:
        if self._dimmed:
            self._out.write(PLAIN)
            self._dimmed = False
