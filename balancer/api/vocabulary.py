"""Token ids as OpenAI shows them: text, bytes, and where the text of a token begins."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

LATIN = "latin-1"
"""How a worker writes bytes in JSON: each as the character of that number."""


class Vocabulary:
    """The tokens of the served model."""

    def __init__(self, tokens: Sequence[bytes] | None, special: frozenset[int], info: Mapping[str, Any]) -> None:
        self._tokens = tokens
        self._special = special
        self.info = info
        """What the tokenizer says of itself; empty without a tokenizer."""

    @classmethod
    def from_worker(cls, said: Mapping[str, Any]) -> Vocabulary:
        """Reads what a worker says of its vocabulary."""
        tokens = said["tokens"]
        return cls(
            None if tokens is None else [token.encode(LATIN) for token in tokens],
            frozenset(said["special"]),
            said["info"],
        )

    @property
    def available(self) -> bool:
        """True if the model has a tokenizer."""
        return self._tokens is not None

    def bytes_of(self, token: int) -> bytes | None:
        """Returns the bytes of a token, for a special one those of its name; None if they are not known."""
        known = self._tokens is not None and 0 <= token < len(self._tokens)
        return self._tokens[token] if known and self._tokens is not None else None

    def shown_bytes(self, token: int) -> bytes:
        """Returns what a token adds to the text of an answer: nothing if it is a special one."""
        return b"" if token in self._special else self.bytes_of(token) or b""

    def text_of(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, special ones included. Half a character becomes U+FFFD."""
        return b"".join(self.bytes_of(token) or b"" for token in tokens).decode(errors="replace")


NO_VOCABULARY = Vocabulary(None, frozenset(), {})


class TokenNames:
    """Names the tokens of one reply."""

    def __init__(self, vocabulary: Vocabulary, *, by_id: bool = False) -> None:
        """`by_id`: True for `token_id:N` in place of text, as vLLM's `return_tokens_as_token_ids` asks for."""
        self.vocabulary = vocabulary
        self._by_id = by_id or not vocabulary.available

    def name(self, token: int) -> str:
        """Returns the text of a token. One that is no text by itself is named `bytes:` with its bytes, as OpenAI does,
        so that no two names are alike."""
        raw = None if self._by_id else self.vocabulary.bytes_of(token)
        if raw is None:
            return f"token_id:{token}"
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def bytes_of(self, token: int) -> list[int] | None:
        """Returns the bytes of a token as numbers; None if they are not known."""
        raw = self.vocabulary.bytes_of(token)
        return None if raw is None else list(raw)


class Offsets:
    """Counts the characters of a text from its tokens, one after another."""

    def __init__(self, vocabulary: Vocabulary, start: int = 0) -> None:
        """`start`: characters of the text before the first token."""
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._count = start

    def next(self, token: int, *, in_prompt: bool = False) -> int:
        """Returns where the text of the next token begins. A token within a character has that character's place."""
        at = self._count
        raw = self._vocabulary.bytes_of(token) if in_prompt else self._vocabulary.shown_bytes(token)
        self._count += len(self._decoder.decode(raw or b""))
        return at
