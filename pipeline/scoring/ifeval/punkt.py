"""NLTK's English punkt data: where they may lie, and the two tokenizers made from them.

Looks in the data folder first, then where NLTK itself looks ($NLTK_DATA among others).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktTokenizer
from trimode.core.errors import ConfigError
from trimode.pipeline.data.load import data_root

FOLDER = "nltk_punkt"
RESOURCE = "tokenizers/punkt_tab/english/"
URL = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/tokenizers/punkt_tab.zip"


def use_data_dir(data_dir: Path | None) -> None:
    """Puts the data folder's punkt folder first on NLTK's search path."""
    folder = str(data_root(data_dir) / FOLDER)
    if folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)


def require_punkt(data_dir: Path | None) -> None:
    """Raises ConfigError with URL and target path if the data are missing."""
    use_data_dir(data_dir)
    try:
        nltk.data.find(RESOURCE)
    except LookupError:
        target = data_root(data_dir) / FOLDER / "tokenizers"
        raise ConfigError(
            "IFEval needs NLTK's punkt_tab data and none were found; run `python -m trimode.pipeline.data prepare "
            f"{FOLDER}`, or unpack {URL} into {target} (which then holds punkt_tab/english), or set NLTK_DATA"
        ) from None


@functools.cache
def sentence_tokenizer() -> Any:  # noqa: ANN401 - nltk has no types
    """Returns NLTK's English sentence splitter. Raises ConfigError without its data."""
    require_punkt(None)
    return PunktTokenizer("english")


def words(text: str) -> Iterator[str]:
    """Yields the tokens of `text` that nltk.word_tokenize gives, sentence by sentence."""
    tokenizer = NLTKWordTokenizer()
    for sentence in sentence_tokenizer().tokenize(text):
        yield from tokenizer.tokenize(sentence)
