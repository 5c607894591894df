"""Text to token ids and back: chat template, encoding, decoding, and where a stop string ends the output.

A checkpoint without tokenizer files still answers requests that give token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimode.core.errors import ConfigError, GenerationError
from trimode.core.field_rules import check_text, show
from trimode.workers.decode.state import StopFinder

END_THINK = "</think>"
ROLES = ("system", "user", "assistant", "tool")


class Text:
    """The tokenizer of a checkpoint, if it has one."""

    def __init__(self, folder: Path) -> None:
        """Reads the tokenizer of `folder`. Without one, `available` is False. ConfigError if it cannot be read."""
        self._tokenizer = None
        if not (folder / "tokenizer.json").exists():
            return
        from transformers import PreTrainedTokenizerFast  # slow to import, and not needed without a tokenizer

        try:
            self._tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"tokenizer: {folder} cannot be read: {error}") from None

    @property
    def available(self) -> bool:
        """True if there is a tokenizer."""
        return self._tokenizer is not None

    def prompt_ids(self, fields: Mapping[str, object], vocab_size: int) -> list[int]:
        """Returns the token ids of the prompt, which is exactly one of prompt_ids, messages, prompt.

        Raises:
            GenerationError: none or several of them, a wrong type, an id outside the vocabulary, or an empty prompt
                (status 400).
        """
        given = [name for name in ("prompt_ids", "messages", "prompt") if fields.get(name) is not None]
        if len(given) != 1:
            raise GenerationError(
                f"prompt: got {' and '.join(given) or 'none'}; valid: one of prompt_ids, messages, prompt"
            )
        value = fields[given[0]]
        if given[0] == "prompt_ids":
            ids = _checked_ids(value, vocab_size)
        elif given[0] == "messages":
            ids = self._encode_field("messages", self.render(value, bool(fields.get("enable_thinking"))))
        elif isinstance(value, str):
            ids = self._encode_field("prompt", value)
        else:
            raise GenerationError(f"prompt: got {show(value)}; valid: a string")
        if not ids:
            raise GenerationError(f"{given[0]}: empty; valid: at least one token")
        return ids

    def render(self, messages: object, enable_thinking: bool) -> str:
        """Returns `messages` as the chat template renders them, up to where the answer begins."""
        if not isinstance(messages, list | tuple) or not messages:
            raise GenerationError("messages: valid: a non-empty list of {role, content}")
        for message in messages:
            role = message.get("role") if isinstance(message, Mapping) else None
            if not isinstance(role, str) or role not in ROLES or not isinstance(message.get("content"), str):
                raise GenerationError(
                    f"messages: each needs a role of {', '.join(ROLES)} and a string content; role {show(role)}"
                )
        # transformers renders templates with jinja2 and imports it late too. Only its error class is needed here, and a
        # checkpoint without tokenizer never gets this far.
        import jinja2

        try:
            text = self._need().apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
            )
        except (jinja2.TemplateError, ValueError) as error:
            raise GenerationError(f"messages: the chat template refuses them: {error}") from None
        return str(text)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of rendered text. Special tokens in the text are recognised; none are added."""
        return [int(i) for i in self._need().encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str | None:
        """Returns the text without special tokens; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def end_think_token_id(self) -> int | None:
        """Id of `</think>`; None if the vocabulary has no such token."""
        if self._tokenizer is None:
            return None
        found = self._tokenizer.convert_tokens_to_ids(END_THINK)
        return found if isinstance(found, int) and found != self._tokenizer.unk_token_id else None

    def stop_finder(self, stops: Sequence[str]) -> StopFinder | None:
        """Returns a function that finds the first token at which one of `stops` is complete; None without stops.

        Raises:
            GenerationError: there are stop strings and no tokenizer.
        """
        if not stops:
            return None
        self._need()
        # Every token but a special one is at least one byte of text. The margin of 16 allows for special tokens.
        reach = max(len(stop.encode()) for stop in stops) + 16

        def find(output: Sequence[int], searched: int) -> int | None:
            start = max(0, searched - reach)
            text = self.decode(output[start:]) or ""
            if not any(stop in text for stop in stops):
                return None
            for end in range(max(searched, start) + 1, len(output) + 1):
                part = self.decode(output[start:end]) or ""
                if any(stop in part for stop in stops):
                    return end
            return None

        return find

    def cut_at_stop(self, text: str, stops: Sequence[str]) -> str:
        """Returns `text` up to the first stop string."""
        ends = [at for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _encode_field(self, name: str, text: str) -> list[int]:
        check_text(name, text)
        return self.encode(text)

    def _need(self) -> Any:  # noqa: ANN401 -- the tokenizer's class is untyped
        if self._tokenizer is None:
            raise GenerationError("this checkpoint has no tokenizer; valid: prompt_ids, and no stop strings")
        return self._tokenizer


def _checked_ids(value: object, vocab_size: int) -> list[int]:
    if not isinstance(value, list | tuple):
        raise GenerationError(f"prompt_ids: got {show(value)}; valid: a list of token ids")
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise GenerationError(f"prompt_ids: got {show(token)}; valid: integers from 0 to {vocab_size - 1}")
    return list(value)
