"""The HTTP surface: OpenAI's routes, health and stats, over a router that finds the worker."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trimode.balancer.api.api_key import KeyRequired
from trimode.balancer.api.body import read_json
from trimode.balancer.api.errors import ERROR_HANDLERS, JsonResponse
from trimode.balancer.api.page import page_routes
from trimode.balancer.api.replies import chat_body, completion_body, json_safe
from trimode.balancer.api.requests import ModelLimits, ParsedRequest, parse_chat, parse_completion
from trimode.balancer.api.stream import DENOISE, Chunks, StreamOptions, stream_options, stream_reply
from trimode.balancer.router import Router
from trimode.balancer.work import Reply
from trimode.core.delta import Delta
from trimode.core.errors import GenerationError, InvalidRequestError
from trimode.core.field_rules import show
from trimode.core.protocol import Mode
from trimode.core.worker import WorkerInfo

Json = dict[str, Any]

_UNSAFE_IN_ID = re.compile(r"[^A-Za-z0-9._:-]")
_MAX_HEADER = 2000
"""Characters of the header that lists ignored fields. Proxies refuse replies whose headers are much longer."""


LARGE_BODY_BYTES = 64 << 10
"""A body of this size or more is read in a thread beside the event loop: it can take a second, and several can come at
a time. Smaller ones take less time than the way to the thread and back."""


BODY_S = 60.0
"""Seconds in which a whole body must arrive."""


def _body_reader() -> ThreadPoolExecutor:
    """Returns one thread, so that large bodies are read one after another."""
    return ThreadPoolExecutor(1, thread_name_prefix="body")


@dataclass(slots=True, kw_only=True)
class Service:
    """What the routes use."""

    router: Router
    default_mode: Mode
    max_body_bytes: int
    api_key: str | None
    """Bearer key of every request but those to /health; None = all are answered."""
    request_log: Path | None
    infos: Callable[[], Sequence[WorkerInfo]]
    """What the workers are; empty until they are ready."""
    stats: Callable[[], Awaitable[Json]]
    """Stats of the balancer and of each worker."""
    started: float = field(default_factory=time.time)
    totals: Json = field(default_factory=lambda: {"requests": 0, "completion_tokens": 0, "nfe": 0, "forwards": {}})
    """Sums over the `usage` of all replies; `replies` in /stats."""
    body_reader: ThreadPoolExecutor = field(default_factory=_body_reader)
    """Reads large bodies."""


def build_app(service: Service) -> Starlette:
    """Returns the application. Unknown paths and methods get OpenAI error bodies too."""

    async def chat(request: Request) -> Response:
        return await _answer(service, request, parse_chat, chat_body)

    async def completion(request: Request) -> Response:
        return await _answer(service, request, parse_completion, completion_body)

    async def models(_: Request) -> Response:
        return JsonResponse({"object": "list", "data": [_model_card(service)] if service.infos() else []})

    async def health(_: Request) -> Response:
        ready, total, stopping = service.router.num_ready, len(service.router.slots), service.router.stopping
        status = "stopping" if stopping else "ok" if ready else "no worker is ready"
        body = {"status": status, "workers_ready": ready, "workers": total}
        return JsonResponse(body, status_code=200 if status == "ok" else 503)

    async def stats(_: Request) -> Response:
        uptime = round(time.time() - service.started, 3)
        return JsonResponse(json_safe({"uptime_s": uptime, "replies": service.totals, **await service.stats()}))

    async def probe(_: Request) -> Response:
        return JsonResponse({"status": "ok"})

    closed = [] if service.api_key is None else [Middleware(KeyRequired, api_key=service.api_key)]
    return Starlette(
        middleware=closed,
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/stats", stats, methods=["GET"]),
            *page_routes(),
            # NeMo-Skills asks with PUT until the server is up
            Route("/", probe, methods=["PUT"]),
            Route("/v1", probe, methods=["GET", "PUT"]),
            Route("/v1/", probe, methods=["GET", "PUT"]),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


async def _answer(
    service: Service,
    request: Request,
    parse: Callable[[Json, Mode, ModelLimits], ParsedRequest],
    build: Callable[[Json, ParsedRequest, Sequence[Reply]], Json],
) -> Response:
    """One generation request from bytes to reply."""
    info = _served(service)
    data = await _read_body(request, service.max_body_bytes)

    def read() -> tuple[ParsedRequest, StreamOptions | None]:
        body = read_json(data, info.max_model_len)
        _check_model(info, body.get("model"))
        limits = ModelLimits(max_model_len=info.max_model_len, vocab_size=info.vocab_size)
        return parse(body, service.default_mode, limits), stream_options(body)

    if len(data) < LARGE_BODY_BYTES:
        parsed, options = read()
    else:
        parsed, options = await asyncio.get_running_loop().run_in_executor(service.body_reader, read)
    service.router.check_room(parsed.n)
    shown_id = parsed.request_id or request.headers.get("x-request-id", "")[:200] or uuid.uuid4().hex
    prefix = "chatcmpl" if build is chat_body else "cmpl"
    head = {"id": f"{prefix}-{shown_id}", "created": int(time.time()), "model": info.served_model_name}
    headers = {"x-request-id": _UNSAFE_IN_ID.sub("_", shown_id)}
    if parsed.ignored:
        headers["x-trimode-ignored-fields"] = _ignored_header(parsed.ignored)

    async def answer(on_delta: Callable[[int, Delta], None] | None = None) -> Json:
        replies = await _generate_all(service.router, parsed, shown_id, on_delta)
        reply = build(head, parsed, replies)
        _note(service, shown_id, parsed, reply)
        return reply

    if options is not None:
        if options.denoise:
            parsed.fields["stream_events"] = DENOISE
        chunks = Chunks(head, parsed, options, chat=build is chat_body)
        return await stream_reply(request, chunks, answer, _disconnected(request), headers)
    reply = await _until_client_leaves(request, answer())
    return Response(status_code=499) if reply is None else JsonResponse(reply, headers=headers)


def _ignored_header(names: Sequence[str]) -> str:
    """Returns the names in a form fit for a header, and how many are left out where they are too many."""
    shown: list[str] = []
    for name in names:
        shown.append(_UNSAFE_IN_ID.sub("_", name[:80]))
        if sum(map(len, shown)) + len(shown) > _MAX_HEADER:
            return ",".join(shown[:-1]) + f",and {len(names) - len(shown) + 1} more"
    return ",".join(shown)


async def _generate_all(
    router: Router, parsed: ParsedRequest, shown_id: str, on_delta: Callable[[int, Delta], None] | None
) -> list[Reply]:
    """Generates the n replies at the same time, with seeds counted up from the first. The first failure ends all.

    `on_delta` takes the parts of the replies as they come, each with the number of its reply.
    """
    # two clients may send one id; inside, every request has its own
    inner_id = f"{_UNSAFE_IN_ID.sub('_', shown_id)}-{uuid.uuid4().hex[:8]}"
    tasks = []
    for index in range(parsed.n):
        request_id = f"{inner_id}-{index}" if parsed.n > 1 else inner_id
        fields = {**parsed.fields, "request_id": request_id}
        if parsed.n > 1:
            fields["seed"] = fields.get("seed", 0) + index
        listener = None if on_delta is None else functools.partial(on_delta, index)
        tasks.append(asyncio.ensure_future(router.submit(request_id, fields, parsed.prompt_tokens, listener)))
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _until_client_leaves(request: Request, work: Awaitable[Json]) -> Json | None:
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
    """Returns the body. InvalidRequestError if it is too long (413) or comes too slowly (408)."""
    chunks, size = [], 0
    declared = request.headers.get("content-length", "")
    too_long = declared.isdigit() and int(declared) > limit
    if not too_long:
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        too_long = True
                        break
                    chunks.append(chunk)
        except TimeoutError:
            raise InvalidRequestError(f"the body did not arrive within {BODY_S:g} s", status=408) from None
    if too_long:
        raise InvalidRequestError(f"the body is longer than {limit} bytes", status=413)
    return b"".join(chunks)


def _served(service: Service) -> WorkerInfo:
    """Returns what is served. GenerationError (503) before the workers are ready."""
    infos = service.infos()
    if not infos:
        raise GenerationError("no worker is ready yet; try again later", 503)
    return infos[0]


def _check_model(info: WorkerInfo, name: object) -> None:
    """A request may leave the model out, but not ask for another one."""
    served = info.served_model_name
    if name not in (None, served, info.model):
        raise InvalidRequestError(f"model: got {show(name)}; valid: {served}", "model", 404, "model_not_found")


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
        "quantization": info.quantization,
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
