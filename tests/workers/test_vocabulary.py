"""What a tokenizer says of itself: the bytes of its tokens are those of the texts they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import GenerationError
from trimode.workers.text import PromptLimits, Text
from trimode.workers.vocabulary import vocabulary

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo_model"
VOCAB = 944


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(DEMO)


@pytest.mark.parametrize("written", ["Max has 5 boxes.\n", " é€ 漢字 🙂", "<think>a</think><|im_end|>"])
def test_the_bytes_of_tokens_join_to_the_text(text: Text, written: str) -> None:
    said = text.vocabulary(VOCAB)
    tokens = said["tokens"]
    assert isinstance(tokens, list)
    ids = text.prompt_ids({"prompt": written}, PromptLimits(vocab_size=VOCAB, max_model_len=4096))
    assert "".join(tokens[token] for token in ids).encode("latin-1").decode() == written
    assert text.detokenize(ids, VOCAB) == written


def test_special_tokens_are_known_and_those_of_thinking_are_text(text: Text) -> None:
    said = text.vocabulary(VOCAB)
    assert isinstance(said["special"], list)
    assert {11, 100} <= set(said["special"])
    assert 13 not in said["special"]
    info = said["info"]
    assert isinstance(info, dict)
    assert (info["eos_token"], info["bos_token"]) == ("<|im_end|>", "<s>")
    assert "add_generation_prompt" in info["chat_template"]


def test_no_tokenizer_has_no_tokens() -> None:
    assert vocabulary(None, 10) == {"tokens": None, "special": [], "info": {}}


@pytest.mark.parametrize("tokens", ["a", [1, VOCAB], [-1], [True], None])
def test_what_are_no_token_ids_becomes_no_text(text: Text, tokens: object) -> None:
    with pytest.raises(GenerationError, match="tokens: got"):
        text.detokenize(tokens, VOCAB)
