"""Reads OpenAI request bodies into the fields that a worker takes.

Everything about a request that can be checked without the model is checked here, before a worker sees it: the shape of
the body, fields of other servers that would change the text, the decoding fields by the table that the worker uses too,
and that the prompt is not longer than any text that fits the context.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode.balancer.api.fields import DECODING_FIELDS, check_names
from trimode.core.errors import GenerationError, InvalidRequestError
from trimode.core.field_rules import (
    FIELD_RULES,
    MAX_INT,
    FieldRule,
    FlagRule,
    IdsRule,
    IntegerRule,
    check_prompt_size,
    is_text,
    show,
)
from trimode.core.protocol import Mode

Json = dict[str, Any]

MAX_REPLIES = 128
MAX_SEED = 2**63 - 1
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What every prompt must keep to."""

    max_model_len: int
    """Context in tokens."""
    vocab_size: int


NO_LIMITS = ModelLimits(max_model_len=MAX_INT, vocab_size=MAX_INT)


@dataclass(slots=True, kw_only=True)
class ParsedRequest:
    """One request body. `fields` go to the worker; the rest shapes the reply."""

    fields: Json
    n: int
    logprobs: bool
    return_token_ids: bool
    request_id: str | None
    """The client's own id, in the body."""
    prompt_tokens: int
    """Estimate for weighing requests."""
    prompt_sha256: str
    """Hash of the messages (or prompt) as compact JSON. A client finds its request in the request log by it."""
    ignored: list[str] = field(default_factory=list)
    """Fields the client sent that have no effect here."""


def parse_chat(body: Json, default_mode: Mode, limits: ModelLimits = NO_LIMITS) -> ParsedRequest:
    """Reads a /v1/chat/completions body. InvalidRequestError names the field."""
    if "prompt" in body:
        raise InvalidRequestError("prompt: belongs to /v1/completions; valid here: messages", "prompt")
    messages = _messages(body.get("messages"), limits)
    logprobs = _flag(body, "logprobs")
    return _parse(body, {"messages": messages}, default_mode, logprobs)


def parse_completion(body: Json, default_mode: Mode, limits: ModelLimits = NO_LIMITS) -> ParsedRequest:
    """Reads a /v1/completions body; the prompt is a string or a list of token ids. InvalidRequestError as above."""
    if "messages" in body:
        raise InvalidRequestError("messages: belongs to /v1/chat/completions; valid here: prompt", "messages")
    logprobs = body.get("logprobs")
    if logprobs is not None:
        _read(IntegerRule(low=0), "logprobs", logprobs)
    return _parse(body, _prompt(body.get("prompt"), limits), default_mode, logprobs is not None)


def prompt_sha256(prompt: object) -> str:
    """Hashes messages (a list of {"role", "content"}, both strings) or a prompt, as compact sorted JSON."""
    text = json.dumps(prompt, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(body: Json, prompt: Json, default_mode: Mode, logprobs: bool) -> ParsedRequest:
    ignored = check_names(body)
    fields: Json = {**prompt, "mode": default_mode.value, "logprobs": logprobs}
    for name in DECODING_FIELDS & body.keys():
        # null means "not given" everywhere but in threshold, where it is a value: no threshold
        if body[name] is not None:
            fields[name] = _read(FIELD_RULES[name], name, body[name])
        elif name == "threshold":
            fields[name] = None
    fields["max_new_tokens"] = _max_new_tokens(body)
    _template_kwargs(body.get("chat_template_kwargs"), fields)
    n = 1 if body.get("n") is None else int(_read(IntegerRule(low=1, high=MAX_REPLIES), "n", body["n"]))
    _seed(fields, n)
    request_id = body.get("request_id")
    if request_id is not None and not (isinstance(request_id, str) and 1 <= len(request_id) <= 200):
        raise InvalidRequestError(f"request_id: got {show(request_id)}; valid: a string of 1 to 200", "request_id")
    if request_id is not None:
        _text(request_id, "request_id")
    source = next(iter(prompt.values()))
    return ParsedRequest(
        fields=fields,
        n=n,
        logprobs=logprobs,
        return_token_ids=_flag(body, "return_token_ids"),
        request_id=request_id,
        prompt_tokens=_estimate_tokens(source),
        prompt_sha256=prompt_sha256(source),
        ignored=ignored,
    )


def _read(rule: FieldRule, name: str, value: object) -> Any:  # noqa: ANN401 (each rule has its own type)
    """Returns the value as the rule reads it; its refusal names the field in `param` too."""
    try:
        return rule.read(name, value)
    except GenerationError as error:
        raise InvalidRequestError(error.message, name) from None


def _messages(value: object, limits: ModelLimits) -> list[dict[str, str]]:
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
        raise InvalidRequestError(error.message, name, code="context_length_exceeded") from None


def _content(value: object, role: str, param: str) -> str:
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
    ):
        return _text("\n".join(part["text"] for part in value), param)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{param}: got {show(value)}; valid: a string or a list of text parts", param)
    return _text(value, param)


def _prompt(value: object, limits: ModelLimits) -> Json:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        _check_size("prompt", len(value), limits)
        return {"prompt": _text(value, "prompt")}
    if isinstance(value, list) and value and not isinstance(value[0], str | list):
        rule = IdsRule(most=limits.max_model_len, high=limits.vocab_size - 1)
        return {"prompt_ids": list(_read(rule, "prompt", value))}
    raise InvalidRequestError(f"prompt: got {show(value)}; valid: one string or one list of token ids", "prompt")


def _text(value: str, param: str) -> str:
    if not is_text(value):
        raise InvalidRequestError(f"{param}: holds half a surrogate pair; valid: Unicode text", param)
    return value


def _max_new_tokens(body: Mapping[str, object]) -> int | None:
    """Returns the token limit, None for the worker's default. Of OpenAI's two names the newer one wins."""
    limits: list[int] = [
        _read(FIELD_RULES["max_new_tokens"], name, body[name])
        for name in ("max_completion_tokens", "max_tokens")
        if body.get(name) is not None
    ]
    return limits[0] if limits else None


def _template_kwargs(value: object, fields: Json) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        param = "chat_template_kwargs"
        raise InvalidRequestError(f"{param}: got {show(value)}; valid: an object", param)
    for name, setting in value.items():
        param = f"chat_template_kwargs.{name[:80]}" if is_text(name) else "chat_template_kwargs"
        if name != "enable_thinking" or not isinstance(setting, bool):
            raise InvalidRequestError(f"{param}: got {show(setting)}; valid: enable_thinking, true or false", param)
        fields.setdefault("enable_thinking", setting)


def _seed(fields: Json, n: int) -> None:
    """Draws a seed for a sampling request without one: clients expect replies to differ. The request log records it.

    Refuses a seed from which the seeds of n replies would run out of range.
    """
    if "seed" not in fields:
        if fields.get("temperature", 0.0) > 0:
            fields["seed"] = secrets.randbits(31)
    elif fields["seed"] > MAX_SEED - (n - 1):
        most = f"at most {MAX_SEED - (n - 1)}, since the seeds of {n} replies count up"
        raise InvalidRequestError(f"seed: got {fields['seed']}; valid: {most}", "seed")


def _flag(body: Json, name: str) -> bool:
    value = body.get(name)
    return value is not None and bool(_read(FlagRule(), name, value))


def _estimate_tokens(prompt: object) -> int:
    if isinstance(prompt, str):
        return len(prompt) // 4
    if isinstance(prompt, list) and isinstance(prompt[0], dict):
        return sum(len(message["content"]) for message in prompt) // 4
    return len(prompt) if isinstance(prompt, list) else 0
