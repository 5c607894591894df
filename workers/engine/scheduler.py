"""Which requests run in the next step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trimode.core.errors import GenerationError
from trimode.workers.decode.state import DecodeState

PREFILL_SLICE = 512
"""Prompt tokens of one request per step; the same for every request, so that its forwards do not depend on company."""
MAX_STEP_PREFILL = 2048
"""Prompt tokens of all requests per step, so that long prompts do not stall decoding."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside the engine."""

    request_id: str
    state: DecodeState
    arrived: float = field(default_factory=time.perf_counter)
    pages: list[int] = field(default_factory=list)
    started: float | None = None
    first_token: float | None = None
    ended: float | None = None
    error: GenerationError | None = None
    cancelled: bool = False
    num_shared_tokens: int = 0
    """Prompt tokens whose KV another request had computed."""
