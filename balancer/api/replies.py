"""Builds OpenAI reply bodies, error bodies and usage from generations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trimode.balancer.api.requests import ParsedRequest
from trimode.balancer.work import Reply
from trimode.core.protocol import NO_COST, Cost, Generation

Json = dict[str, Any]

_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
LOWEST_LOGPROB = -9999.0
"""Sent in place of minus infinity, which JSON lacks."""


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> Json:
    """An OpenAI error body."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def chat_body(head: Json, parsed: ParsedRequest, replies: Sequence[Reply]) -> Json:
    """A chat.completion from the replies to one request; `head` holds id, created and model."""
    choices = []
    for index, reply in enumerate(replies):
        generation = reply.generation
        choice: Json = {
            "index": index,
            "message": {"role": "assistant", "content": generation.text or ""},
            "logprobs": _chat_logprobs(generation) if parsed.logprobs else None,
        }
        choices.append(choice | _ending(generation, parsed))
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage(replies)}


def completion_body(head: Json, parsed: ParsedRequest, replies: Sequence[Reply]) -> Json:
    """A text_completion from the replies to one request; `head` holds id, created and model."""
    choices = []
    for index, reply in enumerate(replies):
        generation = reply.generation
        choice: Json = {
            "index": index,
            "text": generation.text or "",
            "logprobs": _text_logprobs(generation) if parsed.logprobs else None,
        }
        choices.append(choice | _ending(generation, parsed))
    return {**head, "object": "text_completion", "choices": choices, "usage": usage(replies)}


def usage(replies: Sequence[Reply]) -> Json:
    """Returns the tokens, forwards and seconds of one request."""
    cost = _total_cost(replies)
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "total_tokens": cost.prompt_tokens + cost.completion_tokens,
        "nfe": cost.nfe,
        "tpf": round(cost.completion_tokens / cost.nfe, 4) if cost.nfe else None,
        **cost.to_json(),
    }


def _total_cost(replies: Sequence[Reply]) -> Cost:
    """Returns the cost of all replies to one prompt, which counts once.

    Counts are summed; of the seconds the longest stand. The worker's clock starts when the request reaches it, so the
    wait for a worker is added.
    """
    costs = [reply.generation.cost for reply in replies]
    forwards: dict[str, int] = {}
    for cost in costs:
        for kind, count in cost.forwards.items():
            forwards[kind] = forwards.get(kind, 0) + count
    return Cost(
        prompt_tokens=costs[0].prompt_tokens,
        completion_tokens=sum(cost.completion_tokens for cost in costs),
        forwards=forwards,
        forwards_saved=sum(cost.forwards_saved for cost in costs),
        nfe=sum(cost.nfe or 0 for cost in costs),
        acceptance_lengths=[length for cost in costs for length in cost.acceptance_lengths],
        continuations=sum(cost.continuations for cost in costs),
        queue_s=round(max(reply.waited_s + reply.generation.cost.queue_s for reply in replies), 6),
        first_token_s=round(max(reply.waited_s + reply.generation.cost.first_token_s for reply in replies), 6),
        total_s=round(max(reply.waited_s + reply.generation.cost.total_s for reply in replies), 6),
    )


def json_safe(value: object) -> object:
    """Returns the same value with None for NaN and infinities, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def _ending(generation: Generation, parsed: ParsedRequest) -> Json:
    ending: Json = {"finish_reason": generation.finish_reason}
    if parsed.return_token_ids:
        ending["token_ids"] = generation.token_ids
    return ending


def _named_logprobs(generation: Generation) -> list[tuple[str, float]]:
    """Tokens by id (`token_id:N`, as vLLM can name them: the text of a lone token may be half a character)."""
    pairs = zip(generation.token_ids, generation.logprobs or [], strict=False)
    return [(f"token_id:{token}", value if math.isfinite(value) else LOWEST_LOGPROB) for token, value in pairs]


def _chat_logprobs(generation: Generation) -> Json:
    """Each token with its own log-probability; alternatives are not offered, so `top_logprobs` is empty."""
    return {
        "content": [
            {"token": name, "logprob": value, "bytes": None, "top_logprobs": []}
            for name, value in _named_logprobs(generation)
        ]
    }


def _text_logprobs(generation: Generation) -> Json:
    pairs = _named_logprobs(generation)
    return {
        "tokens": [name for name, _ in pairs],
        "token_logprobs": [value for _, value in pairs],
        "top_logprobs": None,
        "text_offset": [],
    }


def token_logprobs(token_ids: Sequence[int], logprobs: Sequence[float] | None, *, chat: bool) -> Json:
    """Returns the log-probabilities of some tokens of an answer in the form of a chat or a text completion."""
    part = Generation(
        request_id="",
        token_ids=list(token_ids),
        text=None,
        finish_reason="",
        cost=NO_COST,
        trace=None,
        logprobs=list(logprobs or ()),
    )
    return _chat_logprobs(part) if chat else _text_logprobs(part)
