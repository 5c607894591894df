"""Instructions on length: words, sentences, paragraphs, and how a paragraph begins.

NLTK splits sentences. Every check is True if the response complies.
"""

from __future__ import annotations

import itertools
import re

from trimode.pipeline.scoring.ifeval.arguments import Arguments, Check, compare, count_argument, text_argument
from trimode.pipeline.scoring.ifeval.punkt import sentence_tokenizer

DIVIDER = re.compile(r"\s?\*\*\*\s?")
WORD_END = frozenset(".,?!'\"")


def number_words(response: str, arguments: Arguments) -> bool:
    """Less than / at least `num_words` runs of word characters."""
    found = len(re.findall(r"\w+", response))
    return compare(found, arguments.get("relation"), count_argument(arguments, "num_words"))


def number_sentences(response: str, arguments: Arguments) -> bool:
    """Less than / at least `num_sentences` sentences. Needs NLTK's punkt data."""
    found = len(sentence_tokenizer().tokenize(response))
    return compare(found, arguments.get("relation"), count_argument(arguments, "num_sentences"))


def number_paragraphs(response: str, arguments: Arguments) -> bool:
    """Exactly `num_paragraphs` paragraphs divided by `***`; only the outermost may be empty and do not count then."""
    paragraphs = [bool(paragraph.strip()) for paragraph in DIVIDER.split(response)]
    return all(paragraphs[1:-1]) and sum(paragraphs) == count_argument(arguments, "num_paragraphs")


def first_word_of(paragraph: str) -> str:
    """Returns the first word without opening quotes, up to a punctuation mark, in lower case."""
    word = paragraph.split()[0].lstrip("'").lstrip('"')
    return "".join(itertools.takewhile(lambda sign: sign not in WORD_END, word)).lower()


def nth_paragraph_first_word(response: str, arguments: Arguments) -> bool:
    """Exactly `num_paragraphs` non-empty paragraphs divided by an empty line, the nth beginning with `first_word`.

    The nth is counted among all paragraphs, empty ones included.
    """
    paragraphs = response.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    nth = count_argument(arguments, "nth_paragraph")
    if nth > filled or not paragraphs[nth - 1].strip():
        return False
    wanted = text_argument(arguments, "first_word").lower()
    return filled == count_argument(arguments, "num_paragraphs") and first_word_of(paragraphs[nth - 1]) == wanted


CHECKS: dict[str, Check] = {
    "length_constraints:number_words": number_words,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
}
