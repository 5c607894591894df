"""What a tokenizer says of itself: the bytes of every token, its special tokens, its chat template."""

from __future__ import annotations

from typing import Any

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Special tokens that are known by their use."""


def _byte_alphabet() -> dict[str, int]:
    """Returns the character that byte-level tokenizers write for each byte, from GPT-2's byte_encoder."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTES = _byte_alphabet()
"""Byte of each character in the names of a byte-level tokenizer's tokens."""


def vocabulary(tokenizer: Any, size: int) -> dict[str, object]:  # noqa: ANN401 -- the tokenizer's class is untyped
    """Returns the tokens of a transformers tokenizer, ready for JSON.

    Args:
        tokenizer: None = there is none, and `tokens` is null.
        size: tokens of the model. The tokenizer may have fewer or more.

    Returns:
        tokens: the bytes of each token, each byte as the character of that number. special: ids of tokens that no text
        shows. end_think: id of `</think>`, or null. info: what /tokenizer_info shows.
    """
    if tokenizer is None:
        return {"tokens": None, "special": [], "info": {}}
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    by_bytes = type(backend.decoder).__name__ == "ByteLevel"
    tokens = []
    for number in range(size):
        name = backend.id_to_token(number) or ""
        known = [BYTES.get(character) for character in name] if by_bytes and number not in added else [None]
        token = name.encode() if None in known else bytes(byte for byte in known if byte is not None)
        if not by_bytes and number not in added:
            token = str(tokenizer.decode([number])).encode()
        tokens.append(token.decode("latin-1"))
    return {
        "tokens": tokens,
        "special": [number for number, token in added.items() if token.special and number < size],
        "info": {
            "tokenizer_class": type(tokenizer).__name__,
            "vocab_size": len(tokenizer),
            **{name: getattr(tokenizer, name, None) for name in NAMED},
            "chat_template": tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        },
    }
