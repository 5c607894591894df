"""What answers a job's prompts, once it is ready."""

from __future__ import annotations

from dataclasses import dataclass, field

from trimode.core.worker import WorkerInfo
from trimode.pipeline.server.address import NO_KEY
from trimode.pipeline.server.models import ServedModel


@dataclass(frozen=True, slots=True)
class Ready:
    """A balancer with its workers, as its ready file says, or a running server with its model."""

    url: str
    workers: list[WorkerInfo]
    """Empty for a running server."""
    api_key: str = field(default=NO_KEY, repr=False)
    """Bearer key of the server. That of a balancer is random, and no file holds it."""
    served: ServedModel | None = None
    """The model of a running server."""

    @property
    def model(self) -> str:
        """Model name for requests."""
        return self.workers[0].served_model_name if self.served is None else self.served.name

    @property
    def slots(self) -> int | None:
        """Requests that all workers together decode at the same time; None for a running server, which has its own."""
        return sum(worker.max_num_seqs for worker in self.workers) if self.served is None else None

    @property
    def max_model_len(self) -> int | None:
        """Prompt and answer of one request at most, in tokens; None if a running server does not say it."""
        return self.workers[0].max_model_len if self.served is None else self.served.max_model_len
