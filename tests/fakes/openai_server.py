"""A server with OpenAI's API that is not this project's: strict about fields, without NFE, and with every fault."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from trimode.tests.fakes.loopback import LoopbackServer

KNOWN = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "n", "stop"),
    *("stream", "stream_options", "chat_template_kwargs", "presence_penalty", "frequency_penalty", "logprobs", "user"),
}
"""Fields that it takes. Others are refused, as at api.openai.com."""

Body = dict[str, Any]
Reply = tuple[int, object, dict[str, str]]
"""Status, body (an object, or text as it is), headers."""


def completion(body: Body, text: str | None = None) -> Reply:
    """A right answer to the made-up problems, with OpenAI's usage alone."""
    prompt = str(body["messages"][-1]["content"])
    numbers = re.findall(r"\d+", prompt)
    said = f"It is \\boxed{{{numbers[-1] if numbers else 0}}}" if text is None else text
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 7, "total_tokens": len(prompt.split()) + 7}
    return 200, {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}, {}


def failure(status: int, message: str, **headers: str) -> Reply:
    """An error in OpenAI's shape."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message, "type": "fake", "code": None}}, named


class OpenAIServer(LoopbackServer):
    """Serves on a free loopback port while the context is open. `reply(body)` may sleep, refuse, or return nonsense."""

    def __init__(
        self,
        reply: Callable[[Body], Reply] = completion,
        models: tuple[str, ...] = ("tiny",),
        key: str | None = None,
        listed: Callable[[], Reply] | None = None,
        strict: bool = True,
    ) -> None:
        """`strict`: fields that are not OpenAI's are refused."""
        self.reply, self.models, self.key, self.listed, self.strict = reply, models, key, listed, strict
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        super().__init__()

    def answer(self, path: str, body: Body | None, headers: dict[str, str]) -> Reply:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return failure(401, "Incorrect API key provided")
        if path == "/v1/models":
            entries = [{"id": name, "object": "model", "owned_by": "fake-engine"} for name in self.models]
            return (200, {"object": "list", "data": entries}, {}) if self.listed is None else self.listed()
        if path != "/v1/chat/completions" or body is None:
            return 404, {"detail": "Not Found"}, {}
        if body.get("model") not in self.models:
            return failure(404, f"The model {body.get('model')!r} does not exist")
        if self.strict and (unknown := sorted(body.keys() - KNOWN)):
            return failure(400, f"Unrecognized request argument supplied: {', '.join(unknown)}")
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(0.01)
            return self.reply(body)
        finally:
            with self._lock:
                self._at_once -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send(fake.answer(self.path, None, self.lowered()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send(fake.answer(self.path, body, self.lowered()))

            def lowered(self) -> dict[str, str]:
                return {name.lower(): value for name, value in self.headers.items()}

            def send(self, reply: Reply) -> None:
                status, content, headers = reply
                if status == 0:  # the connection breaks
                    self.close_connection = True
                    return
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return None

        return Handler
