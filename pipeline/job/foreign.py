"""A running server in the place of the balancer that a job starts. Nothing is started or ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from trimode.core.errors import WorkerError
from trimode.pipeline.job.ready import Ready
from trimode.pipeline.server.address import NO_KEY, read_key
from trimode.pipeline.server.models import ServedModel, find_model
from trimode.pipeline.spec import JobSpec, ServerSpec

TRIES = 5
PAUSE_S = 2.0
"""Between two tries to reach the server."""


class ForeignServer:
    """The server that a job asks, used as a context manager like `BalancerProcess`."""

    def __init__(self, spec: JobSpec, server: ServerSpec) -> None:
        self._spec = spec
        self._server = server

    def __enter__(self) -> ForeignServer:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def wait_ready(self, interrupt: Callable[[], None]) -> Ready:
        """Returns address and model. Raises WorkerError if the server does not answer, ConfigError for a wrong model.

        `interrupt` is called while waiting and raises to end it.
        """
        for left in reversed(range(TRIES)):
            interrupt()
            try:
                model = find_model(self._server, self._spec.model.path)
            except WorkerError:
                if not left:
                    raise
                time.sleep(PAUSE_S)
            else:
                key = read_key(self._server.api_key_file) or NO_KEY
                return Ready(url=self._server.url, workers=[], api_key=key, served=model)
        raise AssertionError("the last try returns or raises")

    def check(self) -> None:
        """Does nothing: a server that stops shows in the answers."""


def server_facts(server: ServerSpec, model: ServedModel) -> dict[str, object]:
    """Returns what the manifest records of a server."""
    return {
        "url": server.url,
        "engine": server.engine,
        "model": model.name,
        "owned_by": model.owned_by,
        "max_model_len": model.max_model_len,
        "fields": server.fields,
    }
