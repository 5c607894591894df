"""A server with the routes that the chat page uses. Its answers, and the passes that lead to them, are made up.

The last message decides: `slow` waits between passes, `hostile` answers with HTML, `refuse` is refused with status 400,
`break` fails in the middle, `markdown` answers with some, `think` thinks first. Anything else gets ANSWER.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from trimode.balancer.api.page import page_routes
from trimode.tests.fakes.decoder_scripts import MODES, Json, Script, ar, tokens_of, usage_of

ANSWER = "First, 5*6=30 stickers. Then, 30+2=32 stickers. Max has 32 stickers. The answer is \\boxed{32}."
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
MARKDOWN = (
    "# Title\n\nSome **bold**, *slanted* and `code`, a [link](https://example.org), "
    "a [bad one](javascript:alert(1)).\n\n- one\n- two\n\n1. first\n2. second\n\n"
    "> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint('<b>')\n```\n\n$$x^2$$ and \\(y\\)."
)


@dataclass(slots=True)
class ChatServer:
    """The server: its settings, and what it saw."""

    port: int = 0
    model: str = "demo_model"
    modes: list[str] = field(default_factory=lambda: list(MODES))
    lora: bool = True
    api_key: str | None = None
    cors_origin: str | None = None
    pause_s: float = 0.0
    bodies: list[Json] = field(default_factory=list)
    hung_up: int = 0
    """Streams whose client left before the end."""
    finished: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens; on the same port as before, if it was running."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self.app(), log_level="critical", access_log=False, timeout_graceful_shutdown=1)
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        self._thread.start()
        while not server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """Hangs up on everybody; nothing if it does not run."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()

    def app(self) -> Starlette:
        routes = [
            *page_routes(),
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        allowed = [self.cors_origin] if self.cors_origin else []
        cors = Middleware(CORSMiddleware, allow_origins=allowed, allow_methods=["*"], allow_headers=["*"])
        return Starlette(routes=routes, middleware=[cors] if allowed else [])

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _refusal(self, request: Request) -> Response | None:
        if self.api_key is None or request.headers.get("authorization") == f"Bearer {self.api_key}":
            return None
        return JSONResponse({"error": {"message": "the API key is missing or wrong", "code": "invalid_api_key"}}, 401)

    async def _models(self, request: Request) -> Response:
        card = {
            "id": self.model,
            "object": "model",
            "root": self.model,
            "max_model_len": 4096,
            "modes": self.modes,
            "default_mode": "ar",
            "lora": self.lora,
            "dtype": "float32",
            "quantization": "none",
        }
        return self._refusal(request) or JSONResponse({"object": "list", "data": [card]})

    async def _chat(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        if "refuse" in prompt:
            return JSONResponse({"error": {"message": f"threshold: got {HOSTILE}", "param": "threshold"}}, 400)
        text = HOSTILE if "hostile" in prompt else MARKDOWN if "markdown" in prompt else ANSWER
        tokens = tokens_of(text * 20 if "slow" in prompt else text)
        script = list(MODES.get(body["mode"], ar)(tokens, body.get("block_length", 8)))
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return JSONResponse({"choices": [choice], "usage": usage_of(script, len(tokens))})
        parts = self._parts(body, script, len(tokens), prompt)
        return StreamingResponse(parts, media_type="text/event-stream")

    async def _parts(self, body: Json, script: list[Script], count: int, prompt: str) -> AsyncIterator[str]:
        pause_s = 0.15 if "slow" in prompt else self.pause_s
        ended = False
        try:
            yield chunk({"role": "assistant", "content": ""})
            if "think" in prompt:
                yield chunk({"reasoning_content": "Let me "})
                yield chunk({"reasoning_content": "see."})
            for i, part in enumerate(script):
                await asyncio.sleep(pause_s)
                if "break" in prompt and i > len(script) // 2:
                    error = {"message": "the worker died", "code": 500}
                    yield f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n"
                    return
                if body.get("stream_events") == "denoise" and part.event is not None:
                    event = {"request_id": "chatcmpl-1", "index": 0, **part.event}
                    yield f"event: denoise\ndata: {json.dumps(event)}\n\n"
                if part.text:
                    yield chunk({"content": part.text})
            ended = True
            self.finished += 1
            yield chunk({}, "stop")
            usage = usage_of(script, count)
            yield f"data: {json.dumps({'choices': [], 'usage': usage, 'trimode': usage})}\n\ndata: [DONE]\n\n"
        finally:
            if not ended and "break" not in prompt:
                self.hung_up += 1


def chunk(delta: Json, reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return f"data: {json.dumps({'id': 'chatcmpl-1', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


@contextmanager
def chat_server(**settings: Any) -> Iterator[ChatServer]:
    """A running server, stopped at the end."""
    server = ChatServer(**settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
