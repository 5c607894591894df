"""Builds OpenAI reply bodies, error bodies and usage from generations."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from trimode.balancer.api.logprobs import Rated, chat_logprobs, prompt_logprobs, text_logprobs
from trimode.balancer.api.reasoning import split_reasoning
from trimode.balancer.api.requests import ParsedRequest
from trimode.balancer.api.vocabulary import NO_VOCABULARY, Offsets, TokenNames, Vocabulary
from trimode.balancer.work import Reply
from trimode.core.protocol import Cost, Generation

Json = dict[str, Any]

_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> Json:
    """An OpenAI error body."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def chat_body(
    head: Json, parsed: ParsedRequest, replies: Sequence[Reply], vocabulary: Vocabulary = NO_VOCABULARY
) -> Json:
    """A chat.completion from the replies to one request; `head` holds id, created and model."""
    names = TokenNames(vocabulary, by_id=parsed.token_names_by_id)
    choices = []
    for index, reply in enumerate(replies):
        generation = reply.generation
        choice: Json = {
            "index": index,
            "message": _message(generation.text or "", parsed),
            "logprobs": chat_logprobs(rated(generation), names) if parsed.logprobs else None,
        }
        choices.append(choice | ending(generation, parsed))
    body = {**head, "object": "chat.completion", "choices": choices, "usage": usage(replies)}
    if parsed.shows_prompt_logprobs:
        body["prompt_logprobs"] = prompt_logprobs(_rated_prompt(replies[0].generation), names)
    return body


def completion_body(
    head: Json, parsed: ParsedRequest, replies: Sequence[Reply], vocabulary: Vocabulary = NO_VOCABULARY
) -> Json:
    """A text_completion from the replies to one request, those to its first prompt first."""
    names = TokenNames(vocabulary, by_id=parsed.token_names_by_id)
    choices = []
    for index, reply in enumerate(replies):
        generation = reply.generation
        echoed = prompt_text(parsed, index // parsed.n, vocabulary) if parsed.echo else ""
        prompt = _rated_prompt(generation) if generation.prompt_token_ids is not None else None
        logprobs = None
        if parsed.logprobs:
            offsets = Offsets(vocabulary)
            logprobs = text_logprobs(rated(generation), names, offsets, prompt if parsed.echo else None)
        choice: Json = {"index": index, "text": echoed + (generation.text or ""), "logprobs": logprobs}
        if parsed.shows_prompt_logprobs and prompt is not None:
            choice["prompt_logprobs"] = prompt_logprobs(prompt, names)
        choices.append(choice | ending(generation, parsed))
    return {**head, "object": "text_completion", "choices": choices, "usage": usage(replies, parsed.n)}


def prompt_text(parsed: ParsedRequest, index: int, vocabulary: Vocabulary) -> str:
    """Returns one of the prompts of a text completion as text."""
    prompt = parsed.prompts[index]
    return prompt["prompt"] if "prompt" in prompt else vocabulary.text_of(prompt["prompt_ids"])


def rated(generation: Generation) -> Rated:
    """Returns the generated tokens with their log-probabilities."""
    return Rated(token_ids=generation.token_ids, logprobs=generation.logprobs or [], tops=generation.top_logprobs)


def _rated_prompt(generation: Generation) -> Rated:
    return Rated(
        token_ids=generation.prompt_token_ids or [],
        logprobs=generation.prompt_logprobs or [],
        tops=generation.prompt_top_logprobs,
    )


def _message(text: str, parsed: ParsedRequest) -> Json:
    if not parsed.splits_reasoning:
        return {"role": "assistant", "content": text}
    thoughts, answer = split_reasoning(text)
    return {"role": "assistant", "content": answer, "reasoning_content": thoughts}


def usage(replies: Sequence[Reply], n: int | None = None) -> Json:
    """Returns the tokens, forwards and seconds of one request.

    Args:
        replies: those to the first prompt first.
        n: replies to each prompt; None = there is one prompt.
    """
    cost = _total_cost(replies, n or len(replies))
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "total_tokens": cost.prompt_tokens + cost.completion_tokens,
        "nfe": cost.nfe,
        "tpf": round(cost.completion_tokens / cost.nfe, 4) if cost.nfe else None,
        **cost.to_json(),
    }


def _total_cost(replies: Sequence[Reply], n: int) -> Cost:
    """Returns the cost of all replies. Each prompt counts once.

    Counts are summed; of the seconds the longest stand. The worker's clock starts when the request reaches it, so the
    wait for a worker is added.
    """
    if len(replies) == 1:
        cost, waited = replies[0].generation.cost, replies[0].waited_s
        return dataclasses.replace(
            cost,
            nfe=cost.nfe or 0,
            fixed_tokens={width: round(tokens, 1) for width, tokens in cost.fixed_tokens.items()},
            queue_s=round(waited + cost.queue_s, 6),
            first_token_s=round(waited + cost.first_token_s, 6),
            total_s=round(waited + cost.total_s, 6),
        )
    costs = [reply.generation.cost for reply in replies]
    forwards: dict[str, int] = {}
    for cost in costs:
        for kind, count in cost.forwards.items():
            forwards[kind] = forwards.get(kind, 0) + count
    widths, fixed = Counter[str](), dict[str, float]()
    for cost in costs:
        widths.update(cost.widths)
        for width, tokens in cost.fixed_tokens.items():
            fixed[width] = round(fixed.get(width, 0.0) + tokens, 1)
    return Cost(
        prompt_tokens=sum(cost.prompt_tokens for cost in costs[::n]),
        completion_tokens=sum(cost.completion_tokens for cost in costs),
        forwards=forwards,
        forwards_saved=sum(cost.forwards_saved for cost in costs),
        nfe=sum(cost.nfe or 0 for cost in costs),
        acceptance_lengths=[length for cost in costs for length in cost.acceptance_lengths],
        widths=dict(widths),
        fixed_tokens=fixed,
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


def ending(generation: Generation, parsed: ParsedRequest) -> Json:
    """Returns how a choice ends, and its token ids if they are asked for."""
    shown: Json = {"finish_reason": generation.finish_reason}
    if parsed.return_token_ids:
        shown["token_ids"] = generation.token_ids
    return shown
