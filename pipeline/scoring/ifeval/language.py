"""Instructions on language and letter case. Every check is True if the response complies.

The language is langdetect's guess, with a fixed seed, so that a verdict never changes between runs.
"""

from __future__ import annotations

import langdetect
from trimode.pipeline.scoring.ifeval.arguments import Arguments, Check, compare, count_argument, text_argument
from trimode.pipeline.scoring.ifeval.punkt import words

langdetect.DetectorFactory.seed = 0


def in_language(response: str, language: str) -> bool:
    """True if langdetect finds `language` (a code) in `response`, or finds nothing to judge by."""
    try:
        return bool(langdetect.detect(response) == language)
    except langdetect.LangDetectException:
        return True


def response_language(response: str, arguments: Arguments) -> bool:
    """The response is in `language`."""
    return in_language(response, text_argument(arguments, "language"))


def english_capital(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """English, all in capitals."""
    return response.isupper() and in_language(response, "en")


def english_lowercase(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """English, without capitals."""
    return response.islower() and in_language(response, "en")


def capital_word_frequency(response: str, arguments: Arguments) -> bool:
    """Less than / at least `capital_frequency` words in capitals. Needs NLTK's punkt data."""
    found = sum(word.isupper() for word in words(response))
    return compare(found, arguments.get("capital_relation"), count_argument(arguments, "capital_frequency"))


CHECKS: dict[str, Check] = {
    "language:response_language": response_language,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "change_case:capital_word_frequency": capital_word_frequency,
}
