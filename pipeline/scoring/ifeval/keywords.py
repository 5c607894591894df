"""Instructions on words and letters: which must occur, which must not, and how often.

Keywords are regular expressions, as in the published definitions. Every check is True if the response complies.
"""

from __future__ import annotations

import re

from trimode.pipeline.scoring.ifeval.arguments import (
    Arguments,
    Check,
    compare,
    count_argument,
    list_argument,
    text_argument,
)


def existence(response: str, arguments: Arguments) -> bool:
    """Every keyword occurs, in any case."""
    return all(re.search(word, response, re.IGNORECASE) for word in list_argument(arguments, "keywords"))


def frequency(response: str, arguments: Arguments) -> bool:
    """The keyword occurs less than / at least `frequency` times, in any case."""
    found = len(re.findall(text_argument(arguments, "keyword").strip(), response, re.IGNORECASE))
    return compare(found, arguments.get("relation"), count_argument(arguments, "frequency"))


def forbidden_words(response: str, arguments: Arguments) -> bool:
    """None of the words occurs as a whole word."""
    words = list_argument(arguments, "forbidden_words")
    return not any(re.search(rf"\b{word}\b", response, re.IGNORECASE) for word in words)


def letter_frequency(response: str, arguments: Arguments) -> bool:
    """The letter occurs less than / at least `let_frequency` times, in any case.

    Some data ask for a character that is no letter. The original draws a random letter then; here it is counted.
    """
    found = response.lower().count(text_argument(arguments, "letter").strip().lower())
    return compare(found, arguments.get("let_relation"), count_argument(arguments, "let_frequency"))


CHECKS: dict[str, Check] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
}
