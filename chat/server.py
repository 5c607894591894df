"""A running server with OpenAI's API that answers."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import httpx
from trimode.chat.answer import Message, Reply, Stats
from trimode.chat.settings import DRAFTING, LORA_SUFFIX, Settings
from trimode.core.errors import GenerationError, WorkerError
from trimode.pipeline.server.address import headers, is_loopback
from trimode.pipeline.server.errors import error_message, explain_status, explain_transport
from trimode.pipeline.server.models import find_model
from trimode.pipeline.spec import ServerSpec

TIMEOUT_S = 600.0
"""Longest silence of a server in the middle of an answer."""
DONE = "[DONE]"


class ServedModel:
    """One model of a server. Its constructor asks the server for it."""

    def __init__(self, server: ServerSpec, model: str) -> None:
        found = find_model(server, model)
        self._server = server
        self.name = found.name
        self.modes = (
            *found.modes,
            *(f"{mode}{LORA_SUFFIX}" for mode in DRAFTING if found.lora and mode in found.modes),
        )

    async def answer(self, messages: Sequence[Message], settings: Settings) -> AsyncIterator[str | Reply]:
        """Yields the parts of the text, then the whole answer. Raises GenerationError or WorkerError."""
        reading = _Reading(began=time.monotonic())
        async for data in self._events(self._body(messages, settings)):
            if part := reading.add(data):
                yield part
        yield reading.reply()

    def close(self) -> None:
        """Does nothing: the server stays."""

    def _body(self, messages: Sequence[Message], settings: Settings) -> dict[str, object]:
        """Returns the request. Fields of this project go only to a server that has its modes."""
        body: dict[str, object] = {
            "model": self.name,
            "messages": list(messages),
            "max_tokens": settings.max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        own = settings.mode_fields() if self.modes else {}
        if self.modes and settings.thinking:
            own["separate_reasoning"] = False  # the screen looks for the end of thinking in the text
        if not self.modes and settings.thinking:
            own = {"chat_template_kwargs": {"enable_thinking": True}}
        return body | settings.decode_fields() | own

    async def _events(self, body: dict[str, object]) -> AsyncIterator[Mapping[str, object]]:
        """Yields the data of each event of a stream, up to its end."""
        timeout = httpx.Timeout(TIMEOUT_S, connect=30.0)
        url = f"{self._server.url}/chat/completions"
        async with httpx.AsyncClient(timeout=timeout, trust_env=not is_loopback(self._server.url)) as client:
            try:
                async with client.stream("POST", url, json=body, headers=headers(self._server)) as response:
                    if response.status_code != httpx.codes.OK:
                        text = (await response.aread()).decode(errors="replace")
                        raise GenerationError(explain_status(self._server, response.status_code, text))
                    async for line in _lines(response):
                        name, _, value = line.partition(":")
                        if name != "data":
                            continue
                        if value.strip() == DONE:
                            return
                        yield _parsed(value)
            except httpx.TransportError as error:
                raise WorkerError(explain_transport(self._server.url, error)) from error
        raise WorkerError("the stream ended before [DONE]: the answer may be cut")


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yields the lines of a body. Only line feeds end one: JSON may hold every other separator as it is."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")


def _parsed(text: str) -> Mapping[str, object]:
    """Returns the object of an event. Raises GenerationError for an error in the stream, WorkerError for nonsense."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkerError(f"an event of the stream is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise WorkerError(f"an event of the stream is no object: got {type(value).__name__}")
    if value.get("error") is not None:
        raise GenerationError(error_message(text))
    return value


class _Reading:
    """What has come of one answer."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._first_s: float | None = None
        self._text: list[str] = []
        self._finish = "stop"
        self._usage: dict[str, object] = {}

    def add(self, chunk: Mapping[str, object]) -> str:
        """Takes one chunk in. Returns its text."""
        for name in ("usage", "trimode"):
            if isinstance(value := chunk.get(name), dict):
                self._usage |= value
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        delta = choices[0].get("delta")
        delta = delta if isinstance(delta, dict) else {}
        self._finish = str(choices[0].get("finish_reason") or self._finish)
        part = delta.get("content") or ""
        said = part or delta.get("reasoning_content") or delta.get("reasoning")
        if said and self._first_s is None:
            self._first_s = time.monotonic() - self._began
        self._text.append(str(part))
        return str(said or "")

    def reply(self) -> Reply:
        """Returns the whole answer."""
        usage = self._usage
        seconds = time.monotonic() - self._began
        queue, first, total = (_number(usage.get(name)) for name in ("queue_s", "first_token_s", "total_s"))
        tokens, nfe, accepted = usage.get("completion_tokens"), usage.get("nfe"), usage.get("acceptance_lengths")
        return Reply(
            text="".join(self._text),
            finish_reason=self._finish,
            stats=Stats(
                tokens=tokens if isinstance(tokens, int) else None,
                seconds=seconds if total is None else total - (queue or 0.0),
                first_token_s=self._first_s if first is None else first - (queue or 0.0),
                nfe=nfe if isinstance(nfe, int) else None,
                acceptance_lengths=tuple(accepted) if isinstance(accepted, list) else (),
            ),
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
