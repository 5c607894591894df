"""Worker actors without Ray: each method has `remote`, as an actor handle's, and the test decides what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError
from trimode.balancer.actors.actor import Started
from trimode.core.errors import TrimodeError
from trimode.core.protocol import Generation, WorkerSettings
from trimode.core.worker import WorkerStats
from trimode.tests.fakes.worker import generation, worker_info


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


class FakeActor:
    """Answers each request with its own id, unless the test has put something else into `answers`."""

    def __init__(self, pid: int, refusal: TrimodeError | None = None) -> None:
        self.pid = pid
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: dict[str, Exception | asyncio.Future[Generation]] = {}
        self.cancelled: list[str] = []
        self._refusal = refusal
        self.start = Method(self, self._start)
        self.generate = Method(self, self._generate)
        self.cancel = Method(self, self._cancel)
        self.stats = Method(self, self._stats)
        self.wait_until_dead = Method(self, asyncio.Event().wait)

    def die(self) -> None:
        if not self.died.done():
            self.died.set_result(None)

    async def _start(self, _worker_class: str, settings: WorkerSettings) -> Started | TrimodeError:
        return self._refusal or Started(worker_info(model=settings.model), self.pid)

    async def _generate(self, fields: Mapping[str, Any]) -> Generation | Exception:
        name = str(fields["request_id"])
        answer = self.answers.get(name)
        if isinstance(answer, TrimodeError):
            return answer
        if isinstance(answer, Exception):
            raise answer
        return await answer if answer is not None else generation(request_id=name)

    async def _cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    async def _stats(self) -> WorkerStats:
        return WorkerStats(steps=self.pid)


class FakeActors:
    """Starts fake actors with pids counted up from 1; those named in `refusals` cannot load their model."""

    def __init__(self, refusals: Mapping[int, TrimodeError] | None = None) -> None:
        self.started: list[FakeActor] = []
        self.log_files: list[Path] = []
        self._refusals = refusals or {}

    def start(self, log_file: Path) -> FakeActor:
        pid = len(self.started) + 1
        self.started.append(FakeActor(pid, self._refusals.get(pid)))
        self.log_files.append(log_file)
        return self.started[-1]

    def kill(self, actor: FakeActor) -> None:
        actor.die()
