"""Text to token ids and back: chat template, encoding, decoding, and where a stop string ends the output.

A checkpoint without tokenizer files still answers requests that give token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode.core.errors import ConfigError, GenerationError
from trimode.core.field_rules import check_prompt_size, check_text, show
from trimode.workers.boundary import one_request
from trimode.workers.decode.context import StopFinder
from trimode.workers.vocabulary import BYTES, vocabulary

END_THINK = "</think>"
ROLES = ("system", "user", "assistant", "tool")

LARGE_PROMPT_CHARACTERS = 1 << 20
"""From this size on, the memory that tokenizing took is returned to the system. It takes about 200 bytes per
character."""
TEMPLATE_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""What a chat template raises on messages that it does not expect, beside jinja2's own errors."""
MAX_SAID = 300
"""Most characters of a template's own words in a refusal."""


def always() -> None:
    """Lets the work go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLimits:
    """What a prompt must keep to."""

    vocab_size: int
    max_model_len: int
    """Context in tokens."""
    go_on: Callable[[], None] = always
    """Called between the steps of the work. Raises GenerationError if nobody waits for the result any more."""


class Text:
    """The tokenizer of a checkpoint, if it has one."""

    def __init__(self, folder: Path) -> None:
        """Reads the tokenizer of `folder`. Without one, `available` is False. ConfigError if it cannot be read."""
        self._tokenizer = None
        self._bytes: dict[int, bytes] = {}
        """Bytes of the tokens that have been asked for; those of special tokens are there from the start."""
        self._joins_bytes = False
        if not (folder / "tokenizer.json").exists():
            return
        from transformers import PreTrainedTokenizerFast  # slow to import, and not needed without a tokenizer

        try:
            self._tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
            # Settings of tokenizer.json that transformers would take out in the first call, while another thread reads
            # them.
            self._tokenizer.backend_tokenizer.no_truncation()
            self._tokenizer.backend_tokenizer.no_padding()
            decoder = type(self._tokenizer.backend_tokenizer.decoder).__name__
            added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder()
            self._bytes = {number: b"" for number, token in added.items() if token.special}
            self._joins_bytes = decoder == "ByteLevel" and not self._tokenizer.clean_up_tokenization_spaces
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"tokenizer: {folder} cannot be read: {error}") from None

    @property
    def available(self) -> bool:
        """True if there is a tokenizer."""
        return self._tokenizer is not None

    def prompt_ids(self, fields: Mapping[str, object], limits: PromptLimits) -> list[int]:
        """Returns the token ids of the prompt, which is exactly one of prompt_ids, messages, prompt.

        Raises:
            GenerationError: none or several of them, a wrong type, an id outside the vocabulary, more than can fit the
                context, or an empty prompt (status 400).
        """
        given = [name for name in ("prompt_ids", "messages", "prompt") if fields.get(name) is not None]
        if len(given) != 1:
            raise GenerationError(
                f"prompt: got {' and '.join(given) or 'none'}; valid: one of prompt_ids, messages, prompt"
            )
        name, value = given[0], fields[given[0]]
        _check_size(name, value, limits.max_model_len)
        if name == "prompt_ids":
            ids = _checked_ids(value, limits.vocab_size)
        else:
            text = self.render(value, bool(fields.get("enable_thinking"))) if name == "messages" else value
            if not isinstance(text, str):
                raise GenerationError(f"prompt: got {show(value)}; valid: a string")
            check_text(name, text)
            limits.go_on()
            with one_request("the tokenizer"):
                ids = self.encode(text)
        if not ids:
            raise GenerationError(f"{name}: empty; valid: at least one token")
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
            with one_request("the chat template", passing=(jinja2.TemplateError, *TEMPLATE_ERRORS)):
                text = self._need().apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
                )
        except (jinja2.TemplateError, *TEMPLATE_ERRORS) as error:
            said = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
            raise GenerationError(f"messages: the chat template refuses them: {said[:MAX_SAID]}") from None
        return str(text)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of rendered text. Special tokens in the text are recognised; none are added.

        Other threads of this process run meanwhile.
        """
        # Of the library's methods only those for batches let other threads run.
        (encoding,) = self._need().backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    def decode(self, ids: Sequence[int]) -> str | None:
        """Returns the text without special tokens; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def detokenize(self, ids: object, vocab_size: int) -> str:
        """Returns the text of token ids, special tokens included. GenerationError (400) if they are none."""
        tokens = _checked_ids(ids, vocab_size, "tokens")
        return str(self._need().decode(tokens, skip_special_tokens=False))

    def vocabulary(self, vocab_size: int) -> dict[str, object]:
        """Returns what workers.vocabulary says of the tokenizer."""
        return vocabulary(self._tokenizer, vocab_size)

    @property
    def joins_bytes(self) -> bool:
        """True if a text is made of the bytes of its tokens, one after another."""
        return self._joins_bytes

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of one token, none for a special one. Only where `joins_bytes` is True."""
        found = self._bytes.get(token)
        if found is None:
            name = self._need().backend_tokenizer.id_to_token(token) or ""
            known = [BYTES.get(character) for character in name]
            found = bytes(known) if None not in known else name.encode()  # type: ignore[arg-type]
            self._bytes[token] = found
        return found

    def token_text(self, token: int) -> str:
        """Returns the text of one token by itself, "" without a tokenizer. Half a character becomes U+FFFD."""
        if self._joins_bytes:
            return self.token_bytes(token).decode(errors="replace")
        return self.decode([token]) or ""

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

    def _need(self) -> Any:  # noqa: ANN401 -- the tokenizer's class is untyped
        if self._tokenizer is None:
            raise GenerationError("this checkpoint has no tokenizer; valid: prompt_ids, and no stop strings")
        return self._tokenizer


def is_large(fields: Mapping[str, object]) -> bool:
    """True if the work on the prompt leaves so much free memory behind that it is worth giving back."""
    messages = fields.get("messages")
    chat = messages if isinstance(messages, list | tuple) else ()
    parts = [fields.get("prompt"), *(message.get("content") for message in chat if isinstance(message, Mapping))]
    return sum(len(part) for part in parts if isinstance(part, str)) >= LARGE_PROMPT_CHARACTERS


def _check_size(name: str, value: object, max_model_len: int) -> None:
    """Refuses what cannot fit the context, whatever its text is, before any work is done. GenerationError (400)."""
    if isinstance(value, str):
        check_prompt_size(name, len(value), max_model_len)
    elif isinstance(value, list | tuple):
        if len(value) > max_model_len:
            what = "ids" if name == "prompt_ids" else "messages"
            raise GenerationError(
                f"{name}: got {len(value)} {what}; valid: at most {max_model_len}, the tokens of the context"
            )
        contents = [item.get("content") for item in value if isinstance(item, Mapping)]
        check_prompt_size(name, sum(len(text) for text in contents if isinstance(text, str)), max_model_len)


def _checked_ids(value: object, vocab_size: int, name: str = "prompt_ids") -> list[int]:
    if not isinstance(value, list | tuple):
        raise GenerationError(f"{name}: got {show(value)}; valid: a list of token ids")
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise GenerationError(f"{name}: got {show(token)}; valid: integers from 0 to {vocab_size - 1}")
    return list(value)
