"""Log-probabilities in the forms of OpenAI's chat and text completions, and of vLLM's `prompt_logprobs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimode.balancer.api.vocabulary import Offsets, TokenNames
from trimode.core.protocol import Top

Json = dict[str, Any]

LOWEST_LOGPROB = -9999.0
"""Sent in place of minus infinity, which JSON lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """Some tokens in a row with their log-probabilities."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    """May be shorter than `token_ids`; the rest is left out."""
    tops: Sequence[Top] | None
    """The most probable tokens at each place; None if none were asked for."""


def chat_logprobs(rated: Rated, names: TokenNames) -> Json:
    """Returns `logprobs` of a choice of a chat completion or of its chunk."""
    tops: Sequence[Top] = rated.tops if rated.tops is not None else [()] * len(rated.token_ids)
    return {
        "content": [
            _chat_entry(token, value, names) | {"top_logprobs": [_chat_entry(other, p, names) for other, p in top]}
            for token, value, top in zip(rated.token_ids, rated.logprobs, tops, strict=False)
        ]
    }


def text_logprobs(rated: Rated, names: TokenNames, offsets: Offsets, prompt: Rated | None = None) -> Json:
    """Returns `logprobs` of a choice of a text completion or of its chunk.

    Args:
        rated: the generated tokens.
        names: names the tokens.
        offsets: counts the characters; it goes on in the next chunk.
        prompt: the tokens of the prompt if the reply repeats it. The first one has no log-probability, so there is one
            log-probability less.
    """
    shown: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": None, "text_offset": []}
    tops: list[dict[str, float] | None] = []
    if prompt is not None:
        for index, token in enumerate(prompt.token_ids):
            shown["tokens"].append(names.name(token))
            shown["text_offset"].append(offsets.next(token, in_prompt=True))
            if index:
                value, top = prompt.logprobs[index - 1], prompt.tops[index - 1] if prompt.tops else ()
                shown["token_logprobs"].append(finite(value))
                tops.append(_text_top(token, value, top, names))
            else:
                shown["token_logprobs"].append(None)
                tops.append(None)
    given: Sequence[Top] = rated.tops if rated.tops is not None else [()] * len(rated.token_ids)
    for token, value, top in zip(rated.token_ids, rated.logprobs, given, strict=False):
        shown["tokens"].append(names.name(token))
        shown["text_offset"].append(offsets.next(token))
        shown["token_logprobs"].append(finite(value))
        tops.append(_text_top(token, value, top, names))
    if rated.tops is not None or (prompt is not None and prompt.tops is not None):
        shown["top_logprobs"] = tops
    return shown


def prompt_logprobs(prompt: Rated, names: TokenNames) -> list[Json | None]:
    """Returns vLLM's `prompt_logprobs`: for each token of the prompt the log-probabilities by token id."""
    entries: list[Json | None] = [None]
    for index, token in enumerate(prompt.token_ids[1:]):
        top = list(prompt.tops[index]) if prompt.tops else []
        ranks = {other: rank for rank, (other, _) in enumerate(top, start=1)}
        values = {token: prompt.logprobs[index]} | dict(top)
        entries.append(
            {
                str(other): {"logprob": finite(value), "rank": ranks.get(other), "decoded_token": names.name(other)}
                for other, value in values.items()
            }
        )
    return entries


def finite(value: float) -> float:
    """Returns the value, or LOWEST_LOGPROB if JSON has no number for it."""
    return value if math.isfinite(value) else LOWEST_LOGPROB


def _chat_entry(token: int, value: float, names: TokenNames) -> Json:
    return {"token": names.name(token), "logprob": finite(value), "bytes": names.bytes_of(token)}


def _text_top(token: int, value: float, top: Top, names: TokenNames) -> dict[str, float]:
    """Returns the alternatives by name. The token itself is among them and stands before others as probable."""
    pairs = sorted({token: value, **dict(top)}.items(), key=lambda pair: (-pair[1], pair[0] != token))
    return {names.name(other): finite(p) for other, p in pairs}
