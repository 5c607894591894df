"""The balancer's HTTP app in this process, without sockets and Ray: its router gives requests to plain workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from trimode.balancer.api.app import build_app
from trimode.balancer.api.service import Service
from trimode.balancer.router import Router
from trimode.balancer.work import WorkerSlot
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import Generation, Mode
from trimode.core.worker import Worker
from trimode.tests.fakes.worker import PlainWorker, cost, generation
from trimode.workers.params import parse_params

HELLO: list[dict[str, object]] = [{"role": "user", "content": "hello"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class StrictWorker(PlainWorker):
    """Checks fields as the real worker does, and dies of anything but a refusal. A prompt of "crash" kills it too."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: str | None = None

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
        if self.dead is not None:
            raise WorkerError(self.dead)
        self.fields.append(fields)
        try:
            names = {name for name in fields if name not in ("messages", "prompt", "prompt_ids")}
            params = parse_params({name: fields[name] for name in names})
            text = json.dumps([fields[name] for name in sorted(fields)], ensure_ascii=False)
            text.encode()
            if fields.get("messages") == [{"role": "user", "content": "crash"}]:
                raise ZeroDivisionError
        except GenerationError:
            raise
        except Exception as error:
            self.dead = f"killed by {type(error).__name__}: {error}"[:500]
            raise WorkerError(self.dead) from error
        shown = f"seed {params.seed}"
        if on_delta is not None:
            on_delta(Delta(token_ids=[0, 1, 2], text=shown))
        return generation(request_id=str(fields["request_id"]), text=shown, cost=cost(prompt_tokens=1))


class AppBench:
    """The app over some workers. A dead worker is replaced at once; `deaths` holds the causes."""

    def __init__(self, make_worker: Callable[[], Worker], *, num_workers: int = 2, max_queue: int = 4096) -> None:
        self.workers = [make_worker() for _ in range(num_workers)]
        self.deaths: list[str] = []
        self._make_worker = make_worker
        self.router = Router(
            [WorkerSlot(index, worker=worker) for index, worker in enumerate(self.workers)],
            in_flight_limit=5,
            max_queue=max_queue,
            on_death=self._on_death,
        )
        self.service = Service(
            router=self.router,
            default_mode=Mode.ar,
            max_body_bytes=16 * 2**20,
            api_key=None,
            request_log=None,
            infos=lambda: [self.workers[0].info()],
            stats=self._stats,
        )

    def _on_death(self, slot: WorkerSlot, cause: str) -> None:
        self.deaths.append(cause)
        self.workers[slot.index] = slot.worker = self._make_worker()

    async def _stats(self) -> dict[str, Any]:
        return {}

    def app(self) -> Starlette:
        return build_app(self.service)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client whose requests run through the app; an exception of the app becomes a reply, as under uvicorn."""
        transport = httpx.ASGITransport(app=self.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://balancer", timeout=60) as client:
            yield client


async def post(client: httpx.AsyncClient, body: object, path: str = CHAT, **headers: str) -> httpx.Response:
    """POST of a body: bytes as they are, anything else as ASCII JSON, in which any string and number has a form."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode("ascii")
    return await client.post(path, content=content, headers={"content-type": "application/json", **headers})


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a reply, which must be an OpenAI error body."""
    body = response.json()
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error
