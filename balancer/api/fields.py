"""The names that a request body may hold: read here, handed to the worker, without effect, or refused with a reason."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping

from trimode.core.errors import InvalidRequestError
from trimode.core.field_rules import show
from trimode.core.protocol import DECODE_FIELDS

DECODING_FIELDS = DECODE_FIELDS - {"max_new_tokens", "logprobs", "top_logprobs", "prompt_logprobs"}
"""Handed to the worker under the same name. OpenAI has other names or meanings for those that are left out."""

OWN_FIELDS = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "echo",
        "reasoning_effort",
        "separate_reasoning",
        "request_id",
        "chat_template_kwargs",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "stream",
        "stream_options",
        "stream_events",
    }
)
"""Read here."""

NEUTRAL_VALUES: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continuation": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (-1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
}
"""Fields of OpenAI or vLLM that are not offered, with the values that change nothing; others are refused."""

WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
        "cache_salt",
        "priority",
        "spaces_between_special_tokens",
        "skip_special_tokens",
        "steps",
    }
)
"""Known and accepted; they do not change which tokens are generated."""

MAX_UNKNOWN = 64
"""Unknown names in one body. Each is compared with the known ones, which takes a fraction of a millisecond."""
_LONGEST_COMPARED = 48
"""A longer name resembles no known one."""
_KNOWN = DECODING_FIELDS | OWN_FIELDS | frozenset(NEUTRAL_VALUES) | WITHOUT_EFFECT


def check_names(body: Mapping[str, object]) -> list[str]:
    """Returns the names without effect, sorted.

    Refuses fields that are not offered, unknown names that look like a misspelt known one, and too many unknown names.
    """
    num_unknown = len(body.keys() - _KNOWN)
    if num_unknown > MAX_UNKNOWN:
        raise InvalidRequestError(f"the body: got {num_unknown} unknown fields; valid: at most {MAX_UNKNOWN}")
    ignored = []
    for name, value in body.items():
        if name in NEUTRAL_VALUES:
            neutral = NEUTRAL_VALUES[name]
            if value is not None and not is_one_of(value, neutral):
                raise InvalidRequestError(_not_offered(name, value, neutral), name)
        elif name in WITHOUT_EFFECT:
            if value is not None and value is not False:
                ignored.append(name)
        elif name not in _KNOWN:
            compared = name if len(name) <= _LONGEST_COMPARED else ""
            near = difflib.get_close_matches(compared, _KNOWN, n=1, cutoff=0.8)
            if near:
                raise InvalidRequestError(f"{name}: unknown field; did you mean {near[0]}?", name)
            ignored.append(name)
    return sorted(ignored)


def is_one_of(value: object, valid: Iterable[object]) -> bool:
    """True if `value` is one of the valid ones. A boolean is no number here, although Python holds True for 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in valid)


def _not_offered(name: str, value: object, neutral: tuple[object, ...]) -> str:
    valid = " or ".join(json.dumps(ok) for ok in neutral) or "leave it out"
    return f"{name}: got {show(value)}, which this server does not offer; valid: {valid}"
