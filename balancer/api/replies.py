"""Builds OpenAI reply bodies, error bodies and usage from generations.

Knows no HTTP server and no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trimode.balancer.api.requests import ParsedRequest
from trimode.balancer.router import WorkItem

Json = dict[str, Any]

_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON lacks."""


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> Json:
    """An OpenAI error body."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def chat_body(head: Json, parsed: ParsedRequest, items: Sequence[WorkItem]) -> Json:
    """A chat.completion from the finished items of one request; `head` holds id, created and model."""
    choices = []
    for index, item in enumerate(items):
        generation = item.done.result()
        choice: Json = {
            "index": index,
            "message": {"role": "assistant", "content": generation["text"] or ""},
            "logprobs": _chat_logprobs(generation) if parsed.logprobs else None,
        }
        choices.append(choice | _ending(generation, parsed))
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage(items)}


def completion_body(head: Json, parsed: ParsedRequest, items: Sequence[WorkItem]) -> Json:
    """A text_completion from the finished items of one request."""
    choices = []
    for index, item in enumerate(items):
        generation = item.done.result()
        choice: Json = {
            "index": index,
            "text": generation["text"] or "",
            "logprobs": _text_logprobs(generation) if parsed.logprobs else None,
        }
        choices.append(choice | _ending(generation, parsed))
    return {**head, "object": "text_completion", "choices": choices, "usage": usage(items)}


def usage(items: Sequence[WorkItem]) -> Json:
    """Tokens, forwards, seconds. Over several replies counts add up (the prompt counts once); seconds the longest."""
    generations = [item.done.result() for item in items]
    prompt_tokens = generations[0]["prompt_tokens"]
    completion_tokens = sum(len(generation["token_ids"]) for generation in generations)
    nfe = sum(generation["nfe"] for generation in generations)
    forwards: dict[str, int] = {}
    for generation in generations:
        for kind, count in generation["forwards"].items():
            forwards[kind] = forwards.get(kind, 0) + count

    def longest(name: str) -> float:
        # the wait for a worker comes before the worker's own clock starts
        seconds: float = max(item.waited_s + item.done.result()[name] for item in items)
        return round(seconds, 6)

    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "nfe": nfe,
        "tpf": round(completion_tokens / nfe, 4) if nfe else None,
        "forwards": forwards,
        "acceptance_lengths": [length for generation in generations for length in generation["acceptance_lengths"]],
        "queue_s": longest("queue_s"),
        "first_token_s": longest("first_token_s"),
        "total_s": longest("total_s"),
    }


def json_safe(value: object) -> object:
    """The same with NaN and infinities, which JSON lacks, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def _ending(generation: Json, parsed: ParsedRequest) -> Json:
    ending: Json = {"finish_reason": generation["finish_reason"]}
    if parsed.return_token_ids:
        ending["token_ids"] = generation["token_ids"]
    return ending


def _named_logprobs(generation: Json) -> list[tuple[str, float]]:
    """Tokens by id (`token_id:N`, as vLLM can name them: the text of a lone token may be half a character)."""
    values = generation["logprobs"] or []
    pairs = zip(generation["token_ids"], values, strict=False)
    return [(f"token_id:{token}", value if math.isfinite(value) else LOWEST_LOGPROB) for token, value in pairs]


def _chat_logprobs(generation: Json) -> Json:
    """Each token with its own log-probability; alternatives are not offered, so `top_logprobs` is empty."""
    return {
        "content": [
            {"token": name, "logprob": value, "bytes": None, "top_logprobs": []}
            for name, value in _named_logprobs(generation)
        ]
    }


def _text_logprobs(generation: Json) -> Json:
    pairs = _named_logprobs(generation)
    return {
        "tokens": [name for name, _ in pairs],
        "token_logprobs": [value for _, value in pairs],
        "top_logprobs": None,
        "text_offset": [],
    }
