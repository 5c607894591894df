"""Worker actors without Ray: each method has `remote`, as an actor handle's, and the test decides what it answers.

Requests come over a real unix socket in this process.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError
from trimode.balancer.actors.actor import Started
from trimode.balancer.actors.wire import Door, boot_id
from trimode.balancer.actors.worker_socket import UNIX, WorkerSocket
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError, TrimodeError
from trimode.core.protocol import Generation, WorkerSettings
from trimode.core.worker import Worker, WorkerInfo, WorkerStats
from trimode.tests.fakes.worker import fake_text, generation, worker_info


class Method:
    """A method of an actor handle. An exception that it returns is raised, as Ray does with its own."""

    def __init__(self, actor: FakeActor, call: Callable[..., Awaitable[Any]]) -> None:
        self._actor = actor
        self._call = call

    async def remote(self, *arguments: object) -> Any:
        """Calls the method; ActorDiedError once the actor is dead, also when it dies meanwhile."""
        work = asyncio.ensure_future(self._call(*arguments))
        await asyncio.wait({work, self._actor.died}, return_when=asyncio.FIRST_COMPLETED)
        if self._actor.died.done():
            work.cancel()
            raise ActorDiedError
        return work.result()


class HeldAnswers(Worker):
    """Answers each request with its own id, unless the test has put something else into `answers`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.answers: dict[str, Exception | asyncio.Future[Generation]] = {}
        self.parts: dict[str, list[Delta]] = {}
        """Handed out before the answer of that request."""
        self.cancelled: list[str] = []
        self.flushed = 0

    def info(self) -> WorkerInfo:
        return worker_info()

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
        name = str(fields["request_id"])
        if on_delta is not None:
            for part in self.parts.get(name, []):
                on_delta(part)
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return await answer if answer is not None else generation(request_id=name)

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        if task == "detokenize":
            raise GenerationError("tokens: got a string; valid: a list of token ids")
        return fake_text(task, fields)

    async def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    async def flush(self) -> None:
        self.flushed += 1

    async def stats(self) -> WorkerStats:
        return WorkerStats(steps=self.pid)

    def close(self) -> None:
        return


class FakeActor:
    """A worker with held answers behind a socket."""

    def __init__(self, pid: int, refusal: TrimodeError | None = None, *, hangs: bool = False) -> None:
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.worker = HeldAnswers(pid)
        self.answers = self.worker.answers
        self.parts = self.worker.parts
        self.cancelled = self.worker.cancelled
        self.connections: list[WorkerSocket] = []
        self._refusal = refusal
        self._hangs = hangs
        self._server: asyncio.Server | None = None
        self.identify = Method(self, self._identify)
        self.start = Method(self, self._start)
        self.wait_until_dead = Method(self, asyncio.Event().wait)

    def die(self) -> None:
        if not self.died.done():
            self.died.set_result(None)
            self.hang_up()

    def close(self) -> None:
        self.hang_up()
        if self._server is not None:
            self._server.close()

    def hang_up(self) -> None:
        """Loses the connections and lives on."""
        for connection in self.connections:
            connection.close()

    async def _identify(self, _door: Door) -> tuple[int, bool]:
        return self.worker.pid, False

    async def _start(self, _worker_class: str, settings: WorkerSettings, door: Door) -> Started | TrimodeError:
        if self._refusal is not None:
            return self._refusal
        if self._hangs:
            await asyncio.Event().wait()

        def connection() -> WorkerSocket:
            self.connections.append(WorkerSocket(self.worker, door.secret))
            return self.connections[-1]

        path = Path(door.folder) / f"worker-{self.worker.pid}"
        self._server = await asyncio.get_running_loop().create_unix_server(connection, path)
        return Started(worker_info(model=settings.model), f"{UNIX}{path}")


_made: list[FakeActors] = []


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test in an event loop of its own, and closes the sockets of all fake actors that it has made."""

    async def whole() -> None:
        try:
            await test
        finally:
            while _made:
                _made.pop().close()
            for _ in range(20):  # so that both ends see it
                await asyncio.sleep(0)

    asyncio.run(whole())


class FakeActors:
    """Starts fake actors with pids counted up from 1. Those in `refusals` cannot load; those in `hangs` hang."""

    def __init__(self, refusals: Mapping[int, TrimodeError] | None = None, hangs: Collection[int] = ()) -> None:
        self.started: list[FakeActor] = []
        self.log_files: list[Path] = []
        self.nodes: list[str] = []
        self._refusals = refusals or {}
        self._hangs = hangs
        self._folder = tempfile.TemporaryDirectory()
        self.door = Door(self._folder.name, boot_id(), "a secret")
        _made.append(self)

    def start(self, log_file: Path, node_id: str) -> FakeActor:
        pid = len(self.started) + 1
        self.started.append(FakeActor(pid, self._refusals.get(pid), hangs=pid in self._hangs))
        self.log_files.append(log_file)
        self.nodes.append(node_id)
        return self.started[-1]

    def kill(self, actor: FakeActor) -> None:
        actor.die()

    def close(self) -> None:
        for actor in self.started:
            actor.close()
        self._folder.cleanup()
