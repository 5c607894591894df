"""Reads OpenAI request bodies into the fields that a worker takes.

Shapes, and fields of other servers that would change the text, are checked here; the worker checks the values of the
decoding fields.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from trimode.balancer.api.fields import DECODING_FIELDS, check_names, show
from trimode.core.errors import InvalidRequestError
from trimode.core.protocol import Mode

Json = dict[str, Any]

MAX_REPLIES = 128
ROLES = ("system", "developer", "user", "assistant")


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


def read_json(body: bytes) -> Json:
    """Parses the body. InvalidRequestError when it is not a JSON object."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body: got {show(value)}; valid: a JSON object")
    return value


def parse_chat(body: Json, default_mode: Mode) -> ParsedRequest:
    """Reads a /v1/chat/completions body."""
    if "prompt" in body:
        raise InvalidRequestError("prompt: belongs to /v1/completions; valid here: messages", "prompt")
    messages = _messages(body.get("messages"))
    logprobs = _flag(body, "logprobs")
    return _parse(body, {"messages": messages}, default_mode, logprobs)


def parse_completion(body: Json, default_mode: Mode) -> ParsedRequest:
    """Reads a /v1/completions body; the prompt is a string or a list of token ids."""
    if "messages" in body:
        raise InvalidRequestError("messages: belongs to /v1/chat/completions; valid here: prompt", "messages")
    logprobs = body.get("logprobs")
    if logprobs is not None and (isinstance(logprobs, bool) or not isinstance(logprobs, int) or logprobs < 0):
        raise InvalidRequestError(f"logprobs: got {show(logprobs)}; valid: null or a number from 0", "logprobs")
    return _parse(body, _prompt(body.get("prompt")), default_mode, logprobs is not None)


def prompt_sha256(prompt: object) -> str:
    """Hashes messages (a list of {"role", "content"}, both strings) or a prompt, as compact sorted JSON."""
    text = json.dumps(prompt, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(body: Json, prompt: Json, default_mode: Mode, logprobs: bool) -> ParsedRequest:
    ignored = check_names(body)
    fields: Json = {**prompt, "mode": default_mode.value, "logprobs": logprobs}
    for name in DECODING_FIELDS & body.keys():
        # null means "not given" everywhere but in threshold, where it is a value: no threshold
        if body[name] is not None or name == "threshold":
            fields[name] = body[name]
    fields["max_new_tokens"] = _max_new_tokens(body)
    _template_kwargs(body.get("chat_template_kwargs"), fields)
    _seed(fields)
    n = body.get("n")
    n = 1 if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_REPLIES:
        raise InvalidRequestError(f"n: got {show(n)}; valid: 1 to {MAX_REPLIES}", "n")
    request_id = body.get("request_id")
    if request_id is not None and not (isinstance(request_id, str) and 1 <= len(request_id) <= 200):
        raise InvalidRequestError(f"request_id: got {show(request_id)}; valid: a string of 1 to 200", "request_id")
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


def _messages(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise InvalidRequestError(f"messages: got {show(value)}; valid: a list of at least one message", "messages")
    messages = []
    for index, message in enumerate(value):
        param = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidRequestError(f"{param}: got {show(message)}; valid: an object with role and content", param)
        role = message.get("role")
        if role not in ROLES:
            raise InvalidRequestError(f"{param}.role: got {show(role)}; valid: {', '.join(ROLES)}", f"{param}.role")
        if message.get("tool_calls"):
            raise InvalidRequestError(f"{param}.tool_calls: not offered; valid: leave it out", f"{param}.tool_calls")
        content = _content(message.get("content"), role, f"{param}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages


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


def _prompt(value: object) -> Json:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return {"prompt": _text(value, "prompt")}
    if isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value):
        return {"prompt_ids": value}
    raise InvalidRequestError(f"prompt: got {show(value)}; valid: one string or one list of token ids", "prompt")


def _text(value: str, param: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{param}: holds half a surrogate pair; valid: Unicode text", param) from None
    return value


def _max_new_tokens(body: Json) -> int | None:
    """Returns the token limit, None for the worker's default. Of OpenAI's two names the newer one wins."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            if type(value) is not int or value < 1:
                raise InvalidRequestError(f"{name}: got {show(value)}; valid: a number from 1", name)
            return value
    return None


def _template_kwargs(value: object, fields: Json) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        param = "chat_template_kwargs"
        raise InvalidRequestError(f"{param}: got {show(value)}; valid: an object", param)
    for name, setting in value.items():
        param = f"chat_template_kwargs.{name[:80]}"
        if name != "enable_thinking" or not isinstance(setting, bool):
            raise InvalidRequestError(f"{param}: got {show(setting)}; valid: enable_thinking, true or false", param)
        fields.setdefault("enable_thinking", setting)


def _seed(fields: Json) -> None:
    """Draws a seed for a sampling request without one: clients expect replies to differ. The request log records it."""
    temperature = fields.get("temperature")
    if "seed" not in fields and isinstance(temperature, int | float) and temperature > 0:
        fields["seed"] = secrets.randbits(31)


def _flag(body: Json, name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequestError(f"{name}: got {show(value)}; valid: true or false", name)


def _estimate_tokens(prompt: object) -> int:
    if isinstance(prompt, str):
        return len(prompt) // 4
    if isinstance(prompt, list) and isinstance(prompt[0], dict):
        return sum(len(message["content"]) for message in prompt) // 4
    return len(prompt) if isinstance(prompt, list) else 0


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
