"""Takes the code out of a reply the way NeMo-Skills 0.7.0 does, quirks included."""

from __future__ import annotations

FENCE = "```"


def after_thinking(text: str) -> str:
    """Returns what follows the first closing think tag: nothing if thinking was opened and never closed."""
    if "<think>" not in text:
        return text
    _, closed, answer = text.partition("</think>")
    return answer.strip() if closed else ""


def extract_code(text: str, language: str = "python") -> str:
    """Returns the code of the first fence marked `language`, else of the first fence, else the whole text.

    The code is stripped and has no CR. The mark is compared as a prefix: "```python3" leaves its 3 before the code.
    """
    text = after_thinking(text.strip().replace("\r", ""))
    for opening in (FENCE + language, FENCE):
        if opening in text:
            inside = text.partition(opening)[2].strip()
            return inside.partition(FENCE)[0].strip()
    return text
