"""Reads the prompt of a request: chat messages, or one or more texts or lists of token ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from trimode.core.errors import GenerationError, InvalidRequestError
from trimode.core.field_rules import CONTEXT_EXCEEDED, MAX_INT, IdsRule, check_prompt_size, is_text, show

Json = dict[str, Any]

MAX_PROMPTS = 1024
"""Prompts of one text completion."""
ROLES = ("system", "developer", "user", "assistant")
TOO_LONG = "context_length_exceeded"
"""OpenAI's code for a request that does not fit the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What every prompt must keep to."""

    max_model_len: int
    """Context in tokens."""
    vocab_size: int


NO_LIMITS = ModelLimits(max_model_len=MAX_INT, vocab_size=MAX_INT)


def prompt_sha256(prompt: object) -> str:
    """Hashes messages (a list of {"role", "content"}, both strings) or a prompt, as compact sorted JSON."""
    text = json.dumps(prompt, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_messages(value: object, limits: ModelLimits) -> list[dict[str, str]]:
    """Returns the messages with plain text. InvalidRequestError names the place."""
    if not isinstance(value, list) or not value:
        raise InvalidRequestError(f"messages: got {show(value)}; valid: a list of at least one message", "messages")
    if len(value) > limits.max_model_len:  # a template writes at least one token for each
        most = f"at most {limits.max_model_len}, the context in tokens"
        raise InvalidRequestError(f"messages: got {len(value)} of them; valid: {most}", "messages")
    messages, characters = [], 0
    for index, message in enumerate(value):
        read = _message(message, f"messages[{index}]")
        characters += len(read["content"])
        _check_size("messages", characters, limits)
        messages.append(read)
    return messages


def read_prompts(value: object, limits: ModelLimits) -> list[Json]:
    """Returns the fields of each prompt: prompt or prompt_ids. InvalidRequestError if it is neither."""
    several = isinstance(value, list) and bool(value) and all(isinstance(item, str | list) for item in value)
    if not several or not isinstance(value, list):
        return [_prompt(value, limits)]
    if len(value) > MAX_PROMPTS:
        raise InvalidRequestError(f"prompt: got {len(value)} of them; valid: at most {MAX_PROMPTS}", "prompt")
    return [_prompt(item, limits) for item in value]


def estimate_tokens(prompt: Json) -> int:
    """Returns about how many tokens a prompt has."""
    value = next(iter(prompt.values()))
    if isinstance(value, str):
        return len(value) // 4
    if isinstance(value, list) and isinstance(value[0], dict):
        return sum(len(message["content"]) for message in value) // 4
    return len(value)


def check_text(value: str, param: str) -> str:
    """Returns the text. InvalidRequestError if it holds half a surrogate pair."""
    if not is_text(value):
        raise InvalidRequestError(f"{param}: holds half a surrogate pair; valid: Unicode text", param)
    return value


def _message(message: object, param: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise InvalidRequestError(f"{param}: got {show(message)}; valid: an object with role and content", param)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequestError(f"{param}.role: got {show(role)}; valid: {', '.join(ROLES)}", f"{param}.role")
    if message.get("tool_calls"):
        raise InvalidRequestError(f"{param}.tool_calls: not offered; valid: leave it out", f"{param}.tool_calls")
    content = _content(message.get("content"), role, f"{param}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _check_size(name: str, characters: int, limits: ModelLimits) -> None:
    try:
        check_prompt_size(name, characters, limits.max_model_len)
    except GenerationError as error:
        raise InvalidRequestError(error.message, name, code=TOO_LONG) from None


def _content(value: object, role: str, param: str) -> str:
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list):
        return "\n".join(_part(part, param) for part in value)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{param}: got {show(value)}; valid: a string or a list of text parts", param)
    return check_text(value, param)


def _part(part: object, param: str) -> str:
    """Returns the text of one part of a message; images, sounds and files are no text."""
    kind = part.get("type") if isinstance(part, dict) else part
    text = part.get("text") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(text, str):
        what = f"a part of type {show(kind)}" if isinstance(kind, str) and kind != "text" else show(part)
        raise InvalidRequestError(f"{param}: got {what}; valid: a string or a list of text parts", param)
    return check_text(text, param)


def _prompt(value: object, limits: ModelLimits) -> Json:
    if isinstance(value, str):
        _check_size("prompt", len(value), limits)
        return {"prompt": check_text(value, "prompt")}
    if isinstance(value, list) and value and not isinstance(value[0], str | list):
        if len(value) > limits.max_model_len:
            message = f"{CONTEXT_EXCEEDED} {limits.max_model_len} tokens. However, your prompt has {len(value)} tokens."
            raise InvalidRequestError(message, "prompt", code=TOO_LONG)
        try:
            return {"prompt_ids": list(IdsRule(most=MAX_INT, high=limits.vocab_size - 1).read("prompt", value))}
        except GenerationError as error:
            raise InvalidRequestError(error.message, "prompt") from None
    valid = "a string, a list of token ids, or a list of strings or of lists of token ids"
    raise InvalidRequestError(f"prompt: got {show(value)}; valid: {valid}", "prompt")
