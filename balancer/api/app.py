"""The HTTP surface: OpenAI's routes, health and stats, over a router that finds the worker."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from trimode.balancer.api.fields import DECODING_FIELDS
from trimode.balancer.api.replies import chat_body, completion_body, error_body, json_safe
from trimode.balancer.api.requests import ParsedRequest, parse_chat, parse_completion, read_json
from trimode.balancer.router import QueueFullError, Reply, Router
from trimode.core.errors import GenerationError, InvalidRequestError, WorkerError
from trimode.core.protocol import Mode
from trimode.core.worker import WorkerInfo

Json = dict[str, Any]

_UNSAFE_IN_ID = re.compile(r"[^A-Za-z0-9._:-]")


@dataclass(slots=True, kw_only=True)
class Service:
    """What the routes use."""

    router: Router
    default_mode: Mode
    max_body_bytes: int
    api_key: str | None
    request_log: Path | None
    infos: Callable[[], Sequence[WorkerInfo]]
    """What the workers are; empty until they are ready."""
    stats: Callable[[], Awaitable[Json]]
    """Stats of the balancer and of each worker."""
    started: float = field(default_factory=time.time)
    totals: Json = field(default_factory=lambda: {"requests": 0, "completion_tokens": 0, "nfe": 0, "forwards": {}})
    """Sums over the `usage` of all replies; `told` in /stats."""


def build_app(service: Service) -> Starlette:
    """Returns the application. Unknown paths and methods get OpenAI error bodies too."""

    async def chat(request: Request) -> Response:
        return await _answer(service, request, parse_chat, chat_body)

    async def completion(request: Request) -> Response:
        return await _answer(service, request, parse_completion, completion_body)

    async def models(request: Request) -> Response:
        _authorize(service, request)
        return JSONResponse({"object": "list", "data": [_model_card(service)] if service.infos() else []})

    async def health(_: Request) -> Response:
        ready, total = service.router.num_ready, len(service.router.slots)
        body = {"status": "ok" if ready else "no worker is ready", "workers_ready": ready, "workers": total}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def stats(request: Request) -> Response:
        _authorize(service, request)
        uptime = round(time.time() - service.started, 3)
        return JSONResponse(json_safe({"uptime_s": uptime, "told": service.totals, **await service.stats()}))

    async def probe(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/stats", stats, methods=["GET"]),
            # NeMo-Skills asks with PUT until the server is up
            Route("/", probe, methods=["GET", "PUT"]),
            Route("/v1", probe, methods=["GET", "PUT"]),
            Route("/v1/", probe, methods=["GET", "PUT"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            InvalidRequestError: _invalid_request,
            GenerationError: _generation_error,
            WorkerError: _worker_error,
            ClientDisconnect: _client_left,
        },
    )


async def _answer(
    service: Service,
    request: Request,
    parse: Callable[[Json, Mode], ParsedRequest],
    build: Callable[[Json, ParsedRequest, Sequence[Reply]], Json],
) -> Response:
    """One generation request from bytes to reply."""
    _authorize(service, request)
    body = read_json(await _read_body(request, service.max_body_bytes))
    parsed = parse(body, service.default_mode)
    model = _check_model(service, body.get("model"))
    shown_id = parsed.request_id or request.headers.get("x-request-id", "")[:200] or uuid.uuid4().hex
    # two clients may send one id; inside, every request has its own
    inner_id = f"{_UNSAFE_IN_ID.sub('_', shown_id)}-{uuid.uuid4().hex[:8]}"
    replies = await _until_client_leaves(request, _generate_all(service.router, parsed, inner_id))
    if replies is None:
        return Response(status_code=499)
    prefix = "chatcmpl" if build is chat_body else "cmpl"
    head = {"id": f"{prefix}-{shown_id}", "created": int(time.time()), "model": model}
    reply = build(head, parsed, replies)
    _note(service, shown_id, parsed, reply)
    headers = {"x-request-id": _UNSAFE_IN_ID.sub("_", shown_id)}
    if parsed.ignored:
        headers["x-trimode-ignored-fields"] = ",".join(_UNSAFE_IN_ID.sub("_", name[:80]) for name in parsed.ignored)
    return JSONResponse(reply, headers=headers)


async def _generate_all(router: Router, parsed: ParsedRequest, inner_id: str) -> list[Reply]:
    """Generates the n replies at the same time, with seeds counted up from the first. The first failure ends all."""
    tasks = []
    for index in range(parsed.n):
        request_id = f"{inner_id}-{index}" if parsed.n > 1 else inner_id
        fields = {**parsed.fields, "request_id": request_id}
        seed = fields.get("seed", 0)
        if parsed.n > 1 and isinstance(seed, int):
            fields["seed"] = seed + index
        tasks.append(asyncio.ensure_future(router.submit(request_id, fields, parsed.prompt_tokens)))
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _until_client_leaves(request: Request, work: Awaitable[list[Reply]]) -> list[Reply] | None:
    """Returns the result of `work`; None, with `work` cancelled, when the client hangs up first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request, limit: int) -> bytes:
    """Returns the body. InvalidRequestError (413) as soon as it is known to be too long."""
    chunks, size = [], 0
    declared = request.headers.get("content-length", "")
    too_long = declared.isdigit() and int(declared) > limit
    if not too_long:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                too_long = True
                break
            chunks.append(chunk)
    if too_long:
        raise InvalidRequestError(f"the body is longer than {limit} bytes", status=413)
    return b"".join(chunks)


def _authorize(service: Service, request: Request) -> None:
    if service.api_key is None:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), service.api_key.encode()):
        raise InvalidRequestError("the API key is missing or wrong", status=401, code="invalid_api_key")


def _check_model(service: Service, name: object) -> str:
    """Returns the served name. A request may leave it out, but not ask for another model."""
    infos = service.infos()
    if not infos:
        raise GenerationError("no worker is ready yet; try again later", 503)
    served = infos[0].served_model_name
    if name in (None, served, infos[0].model):
        return served
    shown = json.dumps(name)[:80]
    raise InvalidRequestError(f"model: got {shown}; valid: {served}", "model", 404, "model_not_found")


def _model_card(service: Service) -> Json:
    info = service.infos()[0]
    return {
        "id": info.served_model_name,
        "object": "model",
        "created": int(service.started),
        "owned_by": "trimode",
        "root": info.model,
        "max_model_len": info.max_model_len,
        "modes": [mode.value for mode in Mode],
        "default_mode": service.default_mode.value,
        "lora": info.lora,
        "dtype": info.dtype,
    }


def _note(service: Service, request_id: str, parsed: ParsedRequest, reply: Json) -> None:
    """Adds the reply to the totals and, with --request-log, appends its usage (no text) to the log."""
    usage, totals = reply["usage"], service.totals
    totals["requests"] += 1
    totals["completion_tokens"] += usage["completion_tokens"]
    totals["nfe"] += usage["nfe"]
    for kind, count in usage["forwards"].items():
        totals["forwards"][kind] = totals["forwards"].get(kind, 0) + count
    if service.request_log is None:
        return
    line = {
        "request_id": request_id,
        "prompt_sha256": parsed.prompt_sha256,
        "mode": parsed.fields["mode"],
        "lora": parsed.fields.get("lora", False),
        "seed": parsed.fields.get("seed", 0),
        "n": parsed.n,
        "finish_reasons": [choice["finish_reason"] for choice in reply["choices"]],
        "usage": usage,
    }
    with service.request_log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _error(message: str, status: int, param: str | None = None, code: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(message, status, param, code), status_code=status)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.detail, error.status_code)


async def _invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    return _error(error.message, error.status, error.param, error.code)


async def _generation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GenerationError)
    # the project's messages begin with the field at fault
    first = re.match(r"\w+", error.message)
    param = first.group() if first and first.group() in DECODING_FIELDS else None
    response = _error(error.message, error.status, param)
    if isinstance(error, QueueFullError):
        response.headers["retry-after"] = str(error.retry_after_s)
    return response


async def _worker_error(_: Request, error: Exception) -> Response:
    response = _error(str(error), 500)
    response.headers["x-should-retry"] = "false"  # it was tried on several workers, and they died
    return response


async def _client_left(_request: Request, _left: Exception) -> Response:
    return Response(status_code=499)
