"""The description of the API: /openapi.json, made from the tables that the requests are checked by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimode.balancer.api.fields import DECODING_FIELDS
from trimode.balancer.api.models import own_version
from trimode.balancer.api.prompts import MAX_PROMPTS, ROLES
from trimode.balancer.api.requests import MAX_REPLIES
from trimode.core.field_rules import (
    FIELD_RULES,
    MAX_INT,
    MAX_TOP_LOGPROBS,
    BiasRule,
    FieldRule,
    FlagRule,
    IdsRule,
    IntegerRule,
    NameRule,
    NumberRule,
    TextsRule,
)
from trimode.core.protocol import Mode

Json = dict[str, Any]

TOKEN = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
TOKENS = {"type": "array", "items": TOKEN}
FLAG = {"type": "boolean"}
MESSAGES: Json = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": list(ROLES)}, "content": {"type": "string"}},
    },
}
SUMMARIES: Mapping[str, tuple[str, str]] = {
    "/v1/chat/completions": ("post", "Answer chat messages; server-sent events with stream."),
    "/v1/completions": ("post", "Continue one or more texts or lists of token ids."),
    "/tokenize": ("post", "Token ids of a text or of chat messages."),
    "/v1/tokenize": ("post", "The same."),
    "/detokenize": ("post", "Text of token ids."),
    "/v1/detokenize": ("post", "The same."),
    "/tokenizer_info": ("get", "Special tokens and the chat template."),
    "/v1/tokenizer_info": ("get", "The same."),
    "/v1/models": ("get", "The served model."),
    "/v1/models/{name}": ("get", "The served model by its name."),
    "/version": ("get", "Version of this server."),
    "/health": ("get", "200 while a worker is ready, else 503. Needs no key."),
    "/stats": ("get", "Counters of replies, balancer and workers as JSON."),
    "/metrics": ("get", "The same and histograms in Prometheus' text format."),
    "/openapi.json": ("get", "This description."),
    "/docs": ("get", "This description as a page."),
}
PATHS = tuple(SUMMARIES)


def openapi() -> Json:
    """Returns the description in OpenAPI 3.1."""
    bodies = {
        "/v1/chat/completions": _object(_chat_fields(), required=["messages"]),
        "/v1/completions": _object(_completion_fields(), required=["prompt"]),
        "/tokenize": {"anyOf": [_tokenize("prompt", {"type": "string"}), _tokenize("messages", MESSAGES)]},
        "/detokenize": _object({"model": {"type": "string"}, "tokens": TOKENS}, required=["tokens"]),
    }
    paths: Json = {}
    for path, (method, summary) in SUMMARIES.items():
        operation: Json = {"summary": summary, "responses": _responses(path)}
        body = bodies.get(path.removeprefix("/v1") if path.endswith("tokenize") else path)
        if body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        if "{name}" in path:
            name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            operation["parameters"] = [name]
        paths[path] = {method: operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimode", "version": own_version(), "description": "OpenAI-compatible server."},
        "paths": paths,
        "components": {"schemas": {"Error": _error_schema()}},
    }


def schema(rule: FieldRule) -> Json:
    """Returns the JSON schema of a decoding field."""
    if isinstance(rule, IntegerRule):
        return {"type": "integer", "minimum": rule.low, "maximum": rule.high}
    if isinstance(rule, NumberRule):
        return {"type": "number", "exclusiveMinimum" if rule.above else "minimum": rule.low, "maximum": rule.high}
    if isinstance(rule, FlagRule):
        return FLAG
    if isinstance(rule, NameRule):
        return {"enum": list(rule.choices)} if rule.choices else {"type": "string", "maxLength": 64}
    if isinstance(rule, TextsRule):
        text = {"type": "string", "minLength": 1, "maxLength": rule.longest}
        return {"anyOf": [text, {"type": "array", "items": text, "maxItems": rule.most}]}
    if isinstance(rule, IdsRule):
        return {**TOKENS, "maxItems": rule.most}
    assert isinstance(rule, BiasRule)
    number = {"type": "number", "minimum": -rule.largest, "maximum": rule.largest}
    names = {"pattern": "^[0-9]{1,9}$"}
    return {"type": "object", "additionalProperties": number, "propertyNames": names, "maxProperties": rule.most}


def _shared_fields() -> Json:
    decoding = {name: schema(FIELD_RULES[name]) for name in sorted(DECODING_FIELDS)}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_INT}
    return {
        "model": {"type": "string"},
        **decoding,
        "mode": {"enum": [mode.value for mode in Mode]},
        "threshold": {"anyOf": [decoding["threshold"], {"type": "null"}]},
        "max_tokens": limit,
        "n": {"type": "integer", "minimum": 1, "maximum": MAX_REPLIES},
        "prompt_logprobs": schema(FIELD_RULES["prompt_logprobs"]),
        "stream": FLAG,
        "stream_options": _object({"include_usage": FLAG}),
        "stream_events": {"enum": ["denoise"]},
        "chat_template_kwargs": _object({"enable_thinking": FLAG}),
        "reasoning_effort": {"enum": ["none"]},
        "return_token_ids": FLAG,
        "return_tokens_as_token_ids": FLAG,
        "request_id": {"type": "string", "minLength": 1, "maxLength": 200},
    }


def _chat_fields() -> Json:
    rated = {"logprobs": FLAG, "top_logprobs": schema(FIELD_RULES["top_logprobs"])}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_INT}
    own = {"messages": MESSAGES, "max_completion_tokens": limit, "separate_reasoning": FLAG}
    return {**own, **rated, **_shared_fields()}


def _completion_fields() -> Json:
    one = [{"type": "string"}, {**TOKENS, "minItems": 1}]
    several = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": MAX_PROMPTS}
    rated = {"logprobs": {"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS}, "echo": FLAG}
    limit = {"max_tokens": {"type": "integer", "minimum": 0, "maximum": MAX_INT}}
    return {"prompt": {"anyOf": [*one, several]}, **rated, **_shared_fields(), **limit}


def _tokenize(name: str, kind: Json) -> Json:
    shared = {"model": {"type": "string"}, "return_token_strs": FLAG, "add_special_tokens": FLAG}
    return _object({name: kind, **shared}, required=[name])


def _object(properties: Json, required: list[str] | None = None) -> Json:
    return {"type": "object", "properties": properties, "required": required or []}


def _responses(path: str) -> Json:
    kinds = {"/metrics": "text/plain", "/docs": "text/html"}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    shown: Json = {kinds.get(path, "application/json"): {}}
    if path.endswith("completions"):
        shown["text/event-stream"] = {}
    replies: Json = {"200": {"description": "The reply.", "content": shown}}
    return replies | {"default": {"description": "An error.", "content": error}}


def _error_schema() -> Json:
    text = {"type": "string"}
    maybe = {"type": ["string", "null"]}
    inner = _object({"message": text, "type": text, "param": maybe, "code": maybe}, required=["message", "type"])
    return _object({"error": inner}, required=["error"])
