"""Reads OpenAI request bodies into the fields that a worker takes.

Everything about a request that can be checked without the model is checked here, before a worker sees it: the shape of
the body, fields of other servers that would change the text, the decoding fields by the table that the worker uses too,
and that the prompt is not longer than any text that fits the context.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimode.balancer.api.fields import DECODING_FIELDS, check_names
from trimode.balancer.api.prompts import (
    NO_LIMITS,
    ModelLimits,
    check_text,
    estimate_tokens,
    prompt_sha256,
    read_messages,
    read_prompts,
)
from trimode.core.errors import GenerationError, InvalidRequestError
from trimode.core.field_rules import FIELD_RULES, FieldRule, FlagRule, IntegerRule, is_text, show
from trimode.core.protocol import Mode

Json = dict[str, Any]

MAX_REPLIES = 128
MAX_SEED = 2**63 - 1
MAX_PROMPT_LOGPROBS = 2**20
"""Log-probabilities of prompt tokens in one reply, alternatives counted. Each takes half a kilobyte."""


@dataclass(slots=True, kw_only=True)
class ParsedRequest:
    """One request body. `fields` go to the worker; the rest shapes the reply."""

    fields: Json
    """With the first prompt."""
    prompts: list[Json]
    """The fields of each prompt: messages, prompt or prompt_ids."""
    n: int
    """Replies to each prompt."""
    logprobs: bool
    echo: bool = False
    """True to repeat the prompt before the answer."""
    shows_prompt_logprobs: bool = False
    """True for vLLM's `prompt_logprobs` in the reply."""
    splits_reasoning: bool = False
    """True to give what was thought apart from the answer."""
    token_names_by_id: bool = False
    return_token_ids: bool
    request_id: str | None
    """The client's own id, in the body."""
    prompt_tokens: int
    """Estimate for weighing requests, of the longest prompt."""
    ignored: list[str] = field(default_factory=list)
    """Fields the client sent that have no effect here."""

    @property
    def prompt_sha256(self) -> str:
        """Hash of the messages (or prompt) as compact JSON. A client finds its request in the request log by it."""
        values = [next(iter(prompt.values())) for prompt in self.prompts]
        return prompt_sha256(values[0] if len(values) == 1 else values)

    @property
    def names_tokens(self) -> bool:
        """True if the reply needs the text of single tokens."""
        return self.logprobs or self.echo or self.shows_prompt_logprobs

    @property
    def num_replies(self) -> int:
        """Replies to all prompts."""
        return self.n * len(self.prompts)

    def replies(self, inner_id: str) -> list[Json]:
        """Returns the worker's fields of each reply, those to the first prompt first.

        The seeds of the replies to one prompt count up from the first. Equal seeds of different prompts do not matter,
        since the random numbers depend on the prompt too.

        Args:
            inner_id: unlike that of any other request in the balancer.
        """
        shared = {name: value for name, value in self.fields.items() if name not in self.prompts[0]}
        replies: list[Json] = []
        for prompt in self.prompts:
            for choice in range(self.n):
                fields = {**shared, **prompt}
                fields["request_id"] = f"{inner_id}-{len(replies)}" if self.num_replies > 1 else inner_id
                if self.n > 1:
                    fields["seed"] = fields.get("seed", 0) + choice
                replies.append(fields)
        return replies


def parse_chat(body: Json, default_mode: Mode, limits: ModelLimits = NO_LIMITS) -> ParsedRequest:
    """Reads a /v1/chat/completions body. InvalidRequestError names the field."""
    if "prompt" in body:
        raise InvalidRequestError("prompt: belongs to /v1/completions; valid here: messages", "prompt")
    messages = read_messages(body.get("messages"), limits)
    if _flag(body, "echo"):
        raise InvalidRequestError("echo: got true; valid here: false (/v1/completions offers it)", "echo")
    logprobs = _flag(body, "logprobs")
    top = body.get("top_logprobs")
    num_top = 0 if top is None else int(_read(FIELD_RULES["top_logprobs"], "top_logprobs", top))
    if num_top and not logprobs:
        raise InvalidRequestError(f'top_logprobs: got {num_top}; valid: only with "logprobs": true', "top_logprobs")
    parsed = _parse(body, [{"messages": messages}], default_mode, num_top if logprobs else None)
    _check_rated_prompts(parsed, "prompt_logprobs")
    parsed.splits_reasoning = bool(parsed.fields.get("enable_thinking")) and body.get("separate_reasoning") is not False
    return parsed


def parse_completion(body: Json, default_mode: Mode, limits: ModelLimits = NO_LIMITS) -> ParsedRequest:
    """Reads a /v1/completions body; a prompt is a string or a list of token ids. InvalidRequestError as above."""
    if "messages" in body:
        raise InvalidRequestError("messages: belongs to /v1/chat/completions; valid here: prompt", "messages")
    logprobs = body.get("logprobs")
    num_top = None if logprobs is None else int(_read(FIELD_RULES["top_logprobs"], "logprobs", logprobs))
    parsed = _parse(body, read_prompts(body.get("prompt"), limits), default_mode, num_top)
    parsed.echo = _flag(body, "echo")
    if parsed.echo and "prompt_logprobs" not in parsed.fields and (parsed.logprobs or _no_tokens(parsed)):
        parsed.fields["prompt_logprobs"] = num_top or 0
    if _no_tokens(parsed) and "prompt_logprobs" not in parsed.fields:
        message = "max_tokens: got 0; valid: 1 or more, or 0 with echo or prompt_logprobs"
        raise InvalidRequestError(message, "max_tokens")
    _check_rated_prompts(parsed, "prompt_logprobs" if parsed.shows_prompt_logprobs else "logprobs")
    return parsed


def _check_rated_prompts(parsed: ParsedRequest, param: str) -> None:
    """Refuses a request whose reply would hold too many log-probabilities of its prompts. `param` asks for them."""
    alternatives = parsed.fields.get("prompt_logprobs")
    if alternatives is None:
        return
    total = (alternatives + 1) * parsed.n * sum(map(estimate_tokens, parsed.prompts))
    if total > MAX_PROMPT_LOGPROBS:
        valid = f"at most {MAX_PROMPT_LOGPROBS}, all replies and alternatives counted"
        raise InvalidRequestError(
            f"{param}: got about {total} log-probabilities of prompt tokens; valid: {valid}", param
        )


def _no_tokens(parsed: ParsedRequest) -> bool:
    return bool(parsed.fields["max_new_tokens"] == 0)


def _parse(body: Json, prompts: list[Json], default_mode: Mode, num_top: int | None) -> ParsedRequest:
    """Reads what both kinds of requests have. `num_top`: alternatives per token; None = no log-probabilities."""
    ignored = check_names(body)
    fields: Json = {**prompts[0], "logprobs": num_top is not None}
    if num_top:
        fields["top_logprobs"] = num_top
    for name in DECODING_FIELDS & body.keys():
        _decoding_field(fields, name, body[name], name)
    rated = body.get("prompt_logprobs")
    if rated is not None and rated is not False:
        fields["prompt_logprobs"] = _read(FIELD_RULES["prompt_logprobs"], "prompt_logprobs", rated)
    fields["max_new_tokens"] = _max_new_tokens(body, low="messages" in prompts[0])
    _template_kwargs(body.get("chat_template_kwargs"), fields)
    fields.setdefault("mode", default_mode.value)
    _reasoning(body, fields)
    n = 1 if body.get("n") is None else int(_read(IntegerRule(low=1, high=MAX_REPLIES), "n", body["n"]))
    _seed(fields, n)
    request_id = body.get("request_id")
    if request_id is not None and not (isinstance(request_id, str) and 1 <= len(request_id) <= 200):
        raise InvalidRequestError(f"request_id: got {show(request_id)}; valid: a string of 1 to 200", "request_id")
    if request_id is not None:
        check_text(request_id, "request_id")
    return ParsedRequest(
        fields=fields,
        prompts=prompts,
        n=n,
        logprobs=num_top is not None,
        shows_prompt_logprobs="prompt_logprobs" in fields,
        token_names_by_id=_flag(body, "return_tokens_as_token_ids"),
        return_token_ids=_flag(body, "return_token_ids"),
        request_id=request_id,
        prompt_tokens=max(map(estimate_tokens, prompts)),
        ignored=ignored,
    )


def _decoding_field(fields: Json, name: str, value: object, param: str) -> None:
    """Reads one decoding field. Null means "not given" everywhere but in threshold, where it is a value: none."""
    if value is not None:
        fields[name] = _read(FIELD_RULES[name], param, value)
    elif name == "threshold":
        fields[name] = None


def _read(rule: FieldRule, name: str, value: object) -> Any:  # noqa: ANN401 (each rule has its own type)
    """Returns the value as the rule reads it; its refusal names the field in `param` too."""
    try:
        return rule.read(name, value)
    except GenerationError as error:
        raise InvalidRequestError(error.message, name) from None


def _max_new_tokens(body: Mapping[str, object], *, low: bool) -> int | None:
    """Returns the token limit, None for the worker's default. Of OpenAI's two names the newer one wins.

    `low`: True if it must be at least 1.
    """
    limits: list[int] = [
        _read(IntegerRule(low=int(low)), name, body[name])
        for name in ("max_completion_tokens", "max_tokens")
        if body.get(name) is not None
    ]
    return limits[0] if limits else None


def _template_kwargs(value: object, fields: Json) -> None:
    """Reads decoding fields that stand here; those of the body itself win."""
    param = "chat_template_kwargs"
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{param}: got {show(value)}; valid: an object", param)
    given: Json = {}
    for name, setting in value.items():
        place = f"{param}.{name[:80]}" if is_text(name) else param
        if name not in DECODING_FIELDS:
            valid = "enable_thinking, mode, block_length and the other fields of decoding"
            raise InvalidRequestError(f"{place}: got {show(setting)}; valid: {valid}", place)
        _decoding_field(given, name, setting, place)
    for name, setting in given.items():
        fields.setdefault(name, setting)


def _reasoning(body: Json, fields: Json) -> None:
    """Reads the two fields of other servers that concern thinking."""
    effort = body.get("reasoning_effort")
    if effort not in (None, "none"):
        valid = '"none"; thinking is switched on by "enable_thinking": true'
        raise InvalidRequestError(f"reasoning_effort: got {show(effort)}; valid: {valid}", "reasoning_effort")
    if effort == "none" and fields.setdefault("enable_thinking", False):
        message = 'reasoning_effort: got "none" beside "enable_thinking": true; valid: one of them'
        raise InvalidRequestError(message, "reasoning_effort")
    if body.get("separate_reasoning") is not None:
        _read(FlagRule(), "separate_reasoning", body["separate_reasoning"])


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
