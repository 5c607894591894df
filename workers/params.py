"""Checks the flat fields of one request by the rules of core/field_rules.py and turns them into DecodeParams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimode.core.continuation import Continuation, request_digest
from trimode.core.errors import GenerationError
from trimode.core.field_rules import CONTEXT_EXCEEDED, MAX_INT, NumberRule, check_text, read_field, show
from trimode.core.protocol import DECODE_FIELDS, DEFAULT_MAX_NEW_TOKENS, DecodeParams
from trimode.workers.decode.registry import MODES

PROMPT_FIELDS = ("prompt_ids", "messages", "prompt")
KNOWN_FIELDS = DECODE_FIELDS | {"id", "request_id", "stream_events", "parts_every_s", "continuation", *PROMPT_FIELDS}
STREAM_EVENTS = "denoise"
"""Value of `stream_events` in a request whose passes over blocks are wanted beside its tokens."""
MAX_PARTS_S = 3600.0
"""Most seconds between two parts."""
MAX_ID_CHARACTERS = 1024
"""Longest request id."""
SHOWN_NAMES = 8
"""Most unknown fields that a refusal names."""


def parse_params(raw: Mapping[str, object]) -> DecodeParams:
    """Returns the DecodeParams of one request's flat fields. A field that is absent or null has its default.

    Raises:
        GenerationError: status 400; names the field, what came and what is valid.
    """
    _check_names(raw)
    if raw.get("stream_events") not in (None, STREAM_EVENTS):
        raise GenerationError(f"stream_events: got {show(raw['stream_events'])}; valid: {STREAM_EVENTS}")
    # Typed by the rules: a field's rule and its DecodeParams field stand for the same type.
    given: dict[str, Any] = {
        name: value for name in sorted(DECODE_FIELDS & raw.keys()) if (value := read_field(name, raw[name])) is not None
    }
    mode = given.pop("mode", None)
    if mode not in MODES:
        raise GenerationError(f"mode: got {show(mode)}; valid: {', '.join(MODES)}")
    given.pop("enable_thinking", None)  # acts on the prompt and the budget; only checked here
    defaults = MODES[mode].defaults
    if given.setdefault("max_new_tokens", DEFAULT_MAX_NEW_TOKENS) == 0 and given.get("prompt_logprobs") is None:
        raise GenerationError(f"max_new_tokens: got 0; valid: 1 to {MAX_INT}, or 0 with prompt_logprobs")
    given.setdefault("block_length", defaults.block_length)
    if "threshold" not in given:
        given["threshold"] = _threshold(raw, mode)
    if given.get("top_k") == -1:  # other servers write -1 for off
        given["top_k"] = 0
    if given.get("top_p") == 0.0:  # no mass at all leaves the most probable token
        given |= {"top_p": 1.0, "temperature": 0.0}
    return DecodeParams(mode=mode, **given)


def read_request_id(raw: Mapping[str, object]) -> str | None:
    """Returns the id that the request gives itself; None if it gives none. GenerationError (400) if it is no text."""
    value = raw.get("request_id")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_ID_CHARACTERS:
        raise GenerationError(f"request_id: got {show(value)}; valid: a string of at most {MAX_ID_CHARACTERS}")
    check_text("request_id", value)
    return value


def read_parts_every_s(raw: Mapping[str, object]) -> float | None:
    """Returns the seconds between two parts of an answer that is wanted as a whole; None if it is wanted in parts.

    Such parts only say where another worker could go on. GenerationError (400) if it is no number of seconds.
    """
    value = raw.get("parts_every_s")
    return None if value is None else NumberRule(low=0.0, high=MAX_PARTS_S).read("parts_every_s", value)


def read_continuation(
    raw: Mapping[str, object], prompt_ids: Sequence[int], params: DecodeParams, vocab_size: int
) -> Continuation | None:
    """Returns where a request goes on; None if it begins. GenerationError (400) if that is not of this request."""
    value = raw.get("continuation")
    if value is None:
        return None
    valid = "a continuation of this prompt with these parameters"
    if not isinstance(value, Mapping):
        raise GenerationError(f"continuation: got {show(value)}; valid: {valid}")
    try:
        found = Continuation.from_json(value)
    except ValueError as error:
        raise GenerationError(f"continuation: {error}; valid: {valid}") from None
    if found.digest != request_digest(prompt_ids, params):
        raise GenerationError(f"continuation: got one of another request; valid: {valid}")
    if any(token >= vocab_size for token in (*found.token_ids, found.next_token or 0)):
        raise GenerationError(f"continuation: got a token that the model does not have; valid: {valid}")
    return found


def check_fits(num_prompt: int, params: DecodeParams, limit: int, *, has_adapter: bool) -> None:
    """Refuses a request that a model with a context of `limit` tokens can never run. GenerationError (400)."""
    total = num_prompt + params.max_new_tokens
    if total > limit:
        # Clients of other servers read this sentence and its numbers.
        raise GenerationError(
            f"{CONTEXT_EXCEEDED} {limit} tokens. However, you requested {total} tokens ({num_prompt} in the messages, "
            f"{params.max_new_tokens} in the completion). Please reduce the length of the messages or completion. "
            "(context_length_exceeded)"
        )
    if params.lora and not has_adapter:
        raise GenerationError("lora: got true, but no adapter is loaded; valid: false, or start with --lora DIR")


def check_vocabulary(params: DecodeParams, vocab_size: int) -> None:
    """Refuses token ids that the model does not have. GenerationError (400)."""
    end = () if params.end_think_token_id is None else (params.end_think_token_id,)
    biased = tuple(token for token, _ in params.logit_bias)
    named = (("stop_token_ids", params.stop_token_ids), ("end_think_token_id", end), ("logit_bias", biased))
    for name, ids in named:
        for token in ids:
            if token >= vocab_size:
                raise GenerationError(f"{name}: got {token}; valid: token ids below {vocab_size}")


def check_end_think(params: DecodeParams, mask_token_id: int) -> None:
    """Refuses the mask token as the end of thinking. GenerationError (400)."""
    if params.end_think_token_id == mask_token_id:
        raise GenerationError(
            f"end_think_token_id: got {mask_token_id}, the mask token; valid: a token that the model can emit"
        )


def _check_names(raw: Mapping[str, object]) -> None:
    unknown = [name for name in raw if name not in KNOWN_FIELDS]
    if not unknown:
        return
    names = ", ".join(show(name) for name in unknown[:SHOWN_NAMES])
    more = f" and {len(unknown) - SHOWN_NAMES} more" if len(unknown) > SHOWN_NAMES else ""
    raise GenerationError(f"unknown field {names}{more}; valid: {', '.join(sorted(KNOWN_FIELDS))}")


def _threshold(raw: Mapping[str, object], mode: str) -> float | None:
    """The mode's default if absent; null means none in dlm, and 0 (one draft pass) where drafts are made."""
    if "threshold" not in raw:
        return MODES[mode].defaults.threshold
    return None if MODES[mode].defaults.threshold != 0 else 0.0
