"""The HTTP surface: OpenAI's routes, health and stats, over a router that finds the worker."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trimode.balancer.api.api_key import KeyRequired
from trimode.balancer.api.chunks import DENOISE, Chunks, StreamOptions
from trimode.balancer.api.docs import docs_routes
from trimode.balancer.api.errors import ERROR_HANDLERS, JsonResponse, LargeJsonResponse
from trimode.balancer.api.guard import Guard
from trimode.balancer.api.metrics import CountResponses
from trimode.balancer.api.models import model_routes
from trimode.balancer.api.openapi import PATHS
from trimode.balancer.api.page import page_routes
from trimode.balancer.api.prompts import ModelLimits
from trimode.balancer.api.replies import chat_body, completion_body, json_safe
from trimode.balancer.api.requests import ParsedRequest, parse_chat, parse_completion
from trimode.balancer.api.service import LARGE_REPLY_TOKENS, Json, Service
from trimode.balancer.api.stream import stream_options, stream_reply
from trimode.balancer.api.text_routes import text_routes
from trimode.balancer.api.vocabulary import NO_VOCABULARY, Vocabulary
from trimode.balancer.router import Router
from trimode.balancer.work import Reply
from trimode.core.delta import Delta
from trimode.core.protocol import Mode

log = logging.getLogger("trimode.balancer")

_NUMBERS = itertools.count()
_UNSAFE_IN_ID = re.compile(r"[^A-Za-z0-9._:-]")
_MAX_HEADER = 2000
"""Characters of the header that lists ignored fields. Proxies refuse replies whose headers are much longer."""


def build_app(service: Service) -> Starlette:
    """Returns the application. Unknown paths and methods get OpenAI error bodies too."""

    async def chat(request: Request) -> Response:
        return await _answer(service, request, parse_chat, chat_body)

    async def completion(request: Request) -> Response:
        return await _answer(service, request, parse_completion, completion_body)

    async def health(_: Request) -> Response:
        ready, total, stopping = service.router.num_ready, len(service.router.slots), service.router.stopping
        status = "stopping" if stopping else "ok" if ready else "no worker is ready"
        body = {"status": status, "workers_ready": ready, "workers": total}
        return JsonResponse(body, status_code=200 if status == "ok" else 503)

    async def stats(_: Request) -> Response:
        uptime = round(time.time() - service.started, 3)
        return JsonResponse(json_safe({"uptime_s": uptime, "replies": service.totals, **await service.stats()}))

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(await service.stats()), media_type=CONTENT_TYPE_LATEST)

    async def probe(_: Request) -> Response:
        return JsonResponse({"status": "ok"})

    counted = Middleware(CountResponses, metrics=service.metrics, paths=frozenset(PATHS))
    guards = [counted, Middleware(Guard, visitors=service.visitors)]
    if service.api_key is not None:
        guards.append(Middleware(KeyRequired, api_key=service.api_key))
    return Starlette(
        middleware=guards,
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            *model_routes(service),
            *text_routes(service),
            Route("/health", health, methods=["GET"]),
            Route("/stats", stats, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *docs_routes(),
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
    build: Callable[[Json, ParsedRequest, Sequence[Reply], Vocabulary], Json],
) -> Response:
    """One generation request from bytes to reply."""

    def read(body: Json, limits: ModelLimits) -> tuple[ParsedRequest, StreamOptions | None]:
        return parse(body, service.default_mode, limits), stream_options(body)

    parsed, options = await service.read(request, read)
    service.router.check_room(parsed.num_replies)
    vocabulary = await service.vocabulary() if parsed.names_tokens else NO_VOCABULARY
    shown_id = parsed.request_id or request.headers.get("x-request-id", "")[:200] or uuid.uuid4().hex
    prefix = "chatcmpl" if build is chat_body else "cmpl"
    name = service.served().served_model_name
    head = {"id": f"{prefix}-{shown_id}", "created": int(time.time()), "model": name}
    headers = {"x-request-id": _UNSAFE_IN_ID.sub("_", shown_id)}
    if parsed.ignored:
        headers["x-trimode-ignored-fields"] = _ignored_header(parsed.ignored)

    async def answer(on_delta: Callable[[int, Delta], None] | None = None) -> Json:
        replies = await _generate_all(service.router, parsed, shown_id, on_delta)
        costs = [reply.generation.cost for reply in replies]
        num_rated = sum(cost.prompt_tokens + cost.completion_tokens for cost in costs) if parsed.names_tokens else 0
        reply = await service.make(num_rated, lambda: build(head, parsed, replies, vocabulary))
        _note(service, shown_id, parsed, reply)
        service.metrics.add_replies(parsed.fields["mode"], replies)
        return reply

    if options is not None:
        if options.denoise:
            parsed.fields["stream_events"] = DENOISE
        chunks = Chunks(head, parsed, options, vocabulary, service.outbox, chat=build is chat_body)
        return await stream_reply(request, chunks, answer, _disconnected(request), headers)

    async def whole() -> Response:
        reply, tokens = await answer(), 0
        if parsed.names_tokens:
            tokens = reply["usage"]["total_tokens"] * parsed.n
        response = JsonResponse if tokens < LARGE_REPLY_TOKENS else LargeJsonResponse
        return await service.make(tokens, lambda: response(reply, headers=headers))

    return await _until_client_leaves(request, whole()) or Response(status_code=499)


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
    """Generates all replies at the same time. The first failure ends all.

    `on_delta` takes the parts of the replies as they come, each with the number of its reply.
    """
    # two clients may send one id; inside, every request has its own
    inner_id = f"{_UNSAFE_IN_ID.sub('_', shown_id)}#{next(_NUMBERS)}"
    tasks = []
    for index, fields in enumerate(parsed.replies(inner_id)):
        listener = None if on_delta is None else functools.partial(on_delta, index)
        work = router.submit(fields["request_id"], fields, parsed.prompt_tokens, listener)
        if parsed.num_replies == 1:  # no task of its own is needed
            return [await work]
        tasks.append(asyncio.ensure_future(work))
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _until_client_leaves(request: Request, work: Awaitable[Response]) -> Response | None:
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
    try:
        with service.request_log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:  # no reason to lose the reply
        log.error("--request-log: %s cannot be written (%s)", service.request_log, error.strerror)
