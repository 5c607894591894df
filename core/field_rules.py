"""The type, range and text check of every decode field, in one place.

The balancer refuses by this table before a worker sees the request, and the worker reads its DecodeParams by it.
Integers may be written as floats without a fraction (3.0 is 3) in every field; booleans are no numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from trimode.core.errors import GenerationError

MAX_INT = 2**31 - 1
"""Largest token count, token id or top_k."""
GREEDY_BELOW = 1e-4
"""A lower temperature counts as 0: logits divided by it leave float32's useful range."""
CHARACTERS_PER_TOKEN = 16
"""A prompt longer than this many characters for each token of the context is refused before it is tokenized. Text has
about 4 characters per token."""
CONTEXT_EXCEEDED = "This model's maximum context length is"
"""How the refusal of a request that is too long for the context begins."""
MAX_TOP_LOGPROBS = 20
"""Most alternatives that are reported for a token."""
SHOWN_CHARACTERS = 40
"""Longer strings are shown by their size, so that no prompt is echoed."""


class FieldRule(Protocol):
    """How one field is checked and read."""

    def read(self, name: str, value: object) -> object:
        """Returns the value as the decoder takes it.

        Raises:
            GenerationError: status 400; says "NAME: got VALUE; valid: RULE".
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerRule(FieldRule):
    """An integer in [low, high]."""

    low: int
    high: int = MAX_INT

    def read(self, name: str, value: object) -> int:
        """Returns the integer; 3.0 is read as 3."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _refusal(name, value, "an integer")
        if not self.low <= value <= self.high:
            raise _refusal(name, value, f"{self.low} to {self.high}")
        return int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRule(FieldRule):
    """A finite number in [low, high], or in (low, high] if `above`."""

    low: float
    high: float
    above: bool = False
    """True if `low` itself is refused."""
    zero_below: float = 0.0
    """Values of a smaller size are read as 0."""

    def read(self, name: str, value: object) -> float:
        """Returns the number as a float."""
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise _refusal(name, value, "a number")
        # compared before the conversion: an integer of 400 digits has no float
        if not self.low <= value <= self.high or (self.above and value == self.low):
            lowest = f"above {self.low}, up to" if self.above else f"{self.low} to"
            raise _refusal(name, value, f"{lowest} {self.high}")
        return 0.0 if abs(value) < self.zero_below else float(value) + 0.0  # -0.0 becomes 0.0


@dataclass(frozen=True, slots=True)
class FlagRule(FieldRule):
    """True or false."""

    def read(self, name: str, value: object) -> bool:
        """Returns the flag."""
        if not isinstance(value, bool):
            raise _refusal(name, value, "true, false")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRule(FieldRule):
    """One of some names. Without `choices` any short text; its reader knows the names."""

    choices: tuple[str, ...] = ()

    def read(self, name: str, value: object) -> str:
        """Returns the name."""
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            raise _refusal(name, value, ", ".join(self.choices) or "a string")
        if len(value) > 64 or not is_text(value):
            raise _refusal(name, value, "a name of at most 64 characters")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class TextsRule(FieldRule):
    """A non-empty string, or a list of them."""

    most: int
    longest: int
    """Characters of one string."""

    def read(self, name: str, value: object) -> tuple[str, ...]:
        """Returns the strings."""
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or len(texts) > self.most:
            raise _refusal(name, value, f"a non-empty string or a list of up to {self.most} of them")
        for text in texts:
            if not isinstance(text, str) or not 1 <= len(text) <= self.longest:
                raise _refusal(name, text, f"non-empty strings of up to {self.longest} characters")
            check_text(name, text)
        return tuple(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdsRule(FieldRule):
    """A list of token ids from 0 to `high`."""

    most: int
    high: int = MAX_INT

    def read(self, name: str, value: object) -> tuple[int, ...]:
        """Returns the ids."""
        if not isinstance(value, list | tuple) or len(value) > self.most:
            raise _refusal(name, value, f"a list of up to {self.most} token ids")
        one = IntegerRule(low=0, high=self.high)
        return tuple(one.read(name, token) for token in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasRule(FieldRule):
    """An object that gives token ids, which JSON can only write as strings, a number each."""

    most: int
    largest: float
    """Largest size of a number."""

    def read(self, name: str, value: object) -> tuple[tuple[int, float], ...]:
        """Returns (token id, number) in the order of the ids."""
        items = value.items() if isinstance(value, Mapping) else value
        if isinstance(items, str) or not isinstance(items, Iterable) or len(pairs := list(items)) > self.most:
            raise _refusal(name, value, f"an object of up to {self.most} token ids, each with a number")
        number = NumberRule(low=-self.largest, high=self.largest)
        found: dict[int, float] = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise _refusal(name, value, "an object of token ids, each with a number")
            token, bias = pair
            if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 10:
                token = int(token)
            read = IntegerRule(low=0).read(name, token)
            if read in found:
                raise _refusal(name, token, "each token id once")
            found[read] = number.read(name, bias)
        return tuple(sorted(found.items()))


FIELD_RULES: Mapping[str, FieldRule] = {
    "mode": NameRule(),
    "max_new_tokens": IntegerRule(low=0),
    "block_length": IntegerRule(low=1, high=1024),
    "threshold": NumberRule(low=0.0, high=1.0),
    "temperature": NumberRule(low=0.0, high=100.0, zero_below=GREEDY_BELOW),
    "top_p": NumberRule(low=0.0, high=1.0),
    "top_k": IntegerRule(low=-1),
    "min_p": NumberRule(low=0.0, high=1.0),
    "repetition_penalty": NumberRule(low=0.01, high=100.0),
    "presence_penalty": NumberRule(low=-2.0, high=2.0),
    "frequency_penalty": NumberRule(low=-2.0, high=2.0),
    "logit_bias": BiasRule(most=1024, largest=100.0),
    "seed": IntegerRule(low=-(2**63), high=2**63 - 1),
    "stop": TextsRule(most=32, longest=1024),
    "stop_token_ids": IdsRule(most=1024),
    "ignore_eos": FlagRule(),
    "max_thinking_tokens": IntegerRule(low=0),
    "end_think_token_id": IntegerRule(low=0),
    "lora": FlagRule(),
    "acceptance": NameRule(choices=("rejection", "equality")),
    "logprobs": FlagRule(),
    "top_logprobs": IntegerRule(low=0, high=MAX_TOP_LOGPROBS),
    "prompt_logprobs": IntegerRule(low=0, high=MAX_TOP_LOGPROBS),
    "enable_thinking": FlagRule(),
}
"""One rule per name in DECODE_FIELDS. Null is no value: it stands for "not given", in threshold for "none"."""


def read_field(name: str, value: object) -> object:
    """Returns the value of a decode field as the decoder takes it; None stays None. GenerationError (400)."""
    return None if value is None else FIELD_RULES[name].read(name, value)


def check_prompt_size(name: str, characters: int, max_model_len: int) -> None:
    """Refuses a prompt that is too long for the context whatever its text is. Costs nothing, unlike tokenizing it.

    Args:
        name: the field, for the message.
        characters: of the prompt, or of the contents of all messages.
        max_model_len: context of the model in tokens.

    Raises:
        GenerationError: status 400.
    """
    most = CHARACTERS_PER_TOKEN * max_model_len
    if characters > most:
        raise GenerationError(
            f"{CONTEXT_EXCEEDED} {max_model_len} tokens. {name}: got {characters} characters; valid: at most {most}, "
            f"which is {CHARACTERS_PER_TOKEN} for each token of the context"
        )


def is_text(value: str) -> bool:
    """True if the string is Unicode text, which half a surrogate pair is not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(name: str, value: str) -> None:
    """Refuses a string that holds half a surrogate pair. GenerationError (400)."""
    if not is_text(value):
        raise GenerationError(f"{name}: got half a surrogate pair; valid: Unicode text")


def show(value: object) -> str:
    """Returns any value in a form for error messages: short, printable, and quick to make whatever the value is."""
    if isinstance(value, str):
        return json.dumps(value) if len(value) <= SHOWN_CHARACTERS else f"a string of {len(value)}"
    if isinstance(value, list | tuple | dict):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of about {math.ceil(value.bit_length() * math.log10(2))} digits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return type(value).__name__


def _refusal(name: str, value: object, valid: str) -> GenerationError:
    return GenerationError(f"{name}: got {show(value)}; valid: {valid}")
