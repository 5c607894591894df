"""A model in this process that answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from trimode.chat.answer import Message, Reply, Stats
from trimode.chat.settings import DRAFTING, LORA_SUFFIX, Settings
from trimode.core.errors import ConfigError
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import Generation, WorkerSettings
from trimode.core.worker import Worker
from trimode.workers.decode.registry import MODES

OWN_ADAPTER = PROJECT_DIR / "miscs" / "linear_spec_lora"
"""Where scripts/fetch_bundled_lora.sh puts the adapter."""


def local_modes() -> tuple[str, ...]:
    """Returns the modes of this project, and those with the adapter."""
    return (*MODES, *(f"{mode}{LORA_SUFFIX}" for mode in DRAFTING))


def find_adapter(model: Path, given: str | None, subfolder: str, needed: bool) -> str | None:
    """Returns the adapter's folder, or None if there is none and it is not needed. Raises ConfigError."""
    places = [Path(given).expanduser()] if given else [model / subfolder, OWN_ADAPTER]
    for place in places:
        if (place / "adapter_config.json").is_file():
            return str(place.absolute())
    if needed or given:
        raise ConfigError(
            f"no adapter at {' or '.join(map(str, places))}; valid: a folder with adapter_config.json (--lora-path), "
            "or the released one (bash scripts/fetch_bundled_lora.sh)"
        )
    return None


def load(settings: WorkerSettings, name: str) -> LocalModel:
    """Returns the loaded model. Raises ConfigError or WorkerError. What the worker says of its kernels is not shown."""
    from trimode.workers import worker  # imports torch, which flags and help do without

    with contextlib.redirect_stderr(io.StringIO()):
        loaded = worker.Worker(settings)
    return LocalModel(loaded, name, has_adapter=settings.lora is not None)


class LocalModel:
    """One worker in this process."""

    def __init__(self, worker: Worker, name: str, has_adapter: bool) -> None:
        self.name = name
        self.modes = tuple(mode for mode in local_modes() if has_adapter or not mode.endswith(LORA_SUFFIX))
        self._worker = worker

    async def answer(self, messages: Sequence[Message], settings: Settings) -> AsyncIterator[str | Reply]:
        """Yields the parts of the text, then the whole answer. Raises GenerationError or WorkerError."""
        fields: dict[str, object] = {"messages": list(messages), "max_new_tokens": settings.max_new_tokens}
        fields |= settings.decode_fields() | settings.mode_fields()
        parts: asyncio.Queue[str | None] = asyncio.Queue()
        asked = asyncio.create_task(self._worker.generate(fields, lambda delta: parts.put_nowait(delta.text)))
        asked.add_done_callback(lambda _: parts.put_nowait(None))
        try:
            while (part := await parts.get()) is not None:
                if part:
                    yield part
            yield reply_of(await asked)
        finally:
            asked.cancel()  # nobody waits for it any more
            await asyncio.gather(asked, return_exceptions=True)

    def close(self) -> None:
        """Ends the worker."""
        self._worker.close()


def reply_of(generation: Generation) -> Reply:
    """Returns a worker's result as a reply."""
    cost = generation.cost
    return Reply(
        text=generation.text or "",
        finish_reason=generation.finish_reason,
        stats=Stats(
            tokens=cost.completion_tokens,
            seconds=cost.total_s - cost.queue_s,
            first_token_s=cost.first_token_s - cost.queue_s,
            nfe=cost.nfe,
            acceptance_lengths=tuple(cost.acceptance_lengths),
        ),
    )
