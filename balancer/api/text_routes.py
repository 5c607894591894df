"""Text to tokens and back, as vLLM offers it: /tokenize, /detokenize and /tokenizer_info."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trimode.balancer.api.errors import JsonResponse
from trimode.balancer.api.fields import is_one_of
from trimode.balancer.api.prompts import ModelLimits, read_messages, read_prompts
from trimode.balancer.api.service import Json, Service
from trimode.balancer.api.vocabulary import TokenNames
from trimode.core.errors import GenerationError, InvalidRequestError
from trimode.core.field_rules import MAX_INT, FlagRule, IdsRule, show

ALWAYS = {"add_generation_prompt": True, "continue_final_message": False}
"""Fields of vLLM that change the tokens, with the only value that is offered."""


def text_routes(service: Service) -> list[Route]:
    """Returns the routes."""

    async def tokenize(request: Request) -> Response:
        fields, shows_names = await service.read(request, _read_tokenize)
        info = service.served()
        empty = fields.get("prompt") == ""  # a request to generate has at least one token, a text need not
        tokens = [] if empty else (await service.text("tokenize", fields))["tokens"]
        names = None
        if shows_names:
            naming = TokenNames(await service.vocabulary())
            names = [naming.name(token) for token in tokens]
        shown = {"count": len(tokens), "max_model_len": info.max_model_len, "tokens": tokens, "token_strs": names}
        return JsonResponse(shown)

    async def detokenize(request: Request) -> Response:
        tokens = await service.read(request, _read_detokenize)
        return JsonResponse({"prompt": (await service.text("detokenize", {"tokens": tokens}))["text"]})

    async def tokenizer_info(_: Request) -> Response:
        info = service.served()
        vocabulary = await service.vocabulary()
        if not vocabulary.available:
            raise GenerationError("this checkpoint has no tokenizer", 404)
        return JsonResponse({**vocabulary.info, "model_max_length": info.max_model_len})

    return [
        *(Route(f"{start}/tokenize", tokenize, methods=["POST"]) for start in ("", "/v1")),
        *(Route(f"{start}/detokenize", detokenize, methods=["POST"]) for start in ("", "/v1")),
        *(Route(f"{start}/tokenizer_info", tokenizer_info, methods=["GET"]) for start in ("", "/v1")),
    ]


def _read_tokenize(body: Json, limits: ModelLimits) -> tuple[dict[str, Any], bool]:
    """Returns the worker's fields, and True if the texts of the tokens are wanted."""
    body = {name: value for name, value in body.items() if value is not None}
    if ("messages" in body) == ("prompt" in body):
        raise InvalidRequestError("prompt: got both or neither of prompt and messages; valid: one of them", "prompt")
    for name, only in ALWAYS.items():
        if not is_one_of(body.get(name), (None, only)):
            raise InvalidRequestError(f"{name}: got {show(body[name])}; valid: {show(only)}", name)
    shows_names = _flag(body.get("return_token_strs"), "return_token_strs")
    _flag(body.get("add_special_tokens"), "add_special_tokens")  # none are ever added: the template writes them
    if "messages" in body:
        fields: dict[str, Any] = {"messages": read_messages(body["messages"], limits)}
        settings = body.get("chat_template_kwargs")
        if settings is not None and not isinstance(settings, dict):
            param = "chat_template_kwargs"
            raise InvalidRequestError(f"{param}: got {show(settings)}; valid: an object", param)
        thinking = (settings or {}).get("enable_thinking", body.get("enable_thinking"))
        return {**fields, "enable_thinking": _flag(thinking, "enable_thinking")}, shows_names
    if not isinstance(body["prompt"], str):
        raise InvalidRequestError(f"prompt: got {show(body['prompt'])}; valid: a string", "prompt")
    return read_prompts(body["prompt"], limits)[0], shows_names


def _read_detokenize(body: Json, limits: ModelLimits) -> list[int]:
    try:
        return list(IdsRule(most=MAX_INT, high=limits.vocab_size - 1).read("tokens", body.get("tokens")))
    except GenerationError as error:
        raise InvalidRequestError(error.message, "tokens") from None


def _flag(value: object, name: str) -> bool:
    try:
        return value is not None and FlagRule().read(name, value)
    except GenerationError as error:
        raise InvalidRequestError(error.message, name) from None
