"""The contract of a worker: what it does, what it says of itself, and its counters."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimode.core.delta import Delta, OnDelta
from trimode.core.protocol import FORWARD_KINDS, Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a worker is: shown in /v1/models and in the ready file, recorded in the manifest."""

    model: str
    """As in its settings."""
    served_model_name: str
    device: str
    """cpu | cuda | cuda:N."""
    device_name: str
    """Name of the GPU, or the CPU's architecture."""
    dtype: str
    quantization: str = "none"
    """none | fp8 | w8a16 | w4a16: how the weights of the layers are stored."""
    quantized: list[str] = field(default_factory=list)
    """What was quantised at load: names of weights, `*` for the number of a layer. Empty if nothing was, also for a
    checkpoint that is quantised."""
    weight_bytes: int | None = None
    """Of all weights on the device."""
    batch_invariant: bool = False
    """True if kernels were asked for whose results do not depend on the other requests of a batch."""
    kernels: Mapping[str, str]
    """Operator -> implementation, with the reason where it is not the fastest one."""
    max_model_len: int
    """Longest prompt and output together, in tokens."""
    max_num_seqs: int
    """Requests decoded together."""
    lora: bool
    """True if an adapter is loaded."""
    vocab_size: int
    weights_sha256: str
    lora_sha256: str | None
    versions: Mapping[str, str]
    """Package -> version."""

    def to_json(self) -> dict[str, object]:
        """The same as a plain dict, ready for json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> WorkerInfo:
        """Returns what `to_json` wrote."""
        return cls(**raw)


@dataclass(slots=True, kw_only=True)
class EngineTotals:
    """What an engine has done since its start."""

    steps: int = 0
    """Forwards of the model over whole batches."""
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FORWARD_KINDS, 0))
    """Forwards of single requests, by kind: the sum of all requests' forwards, less the prefills that the prefix cache
    saved."""
    step_tokens: int = 0
    """Tokens run through the model, prompt tokens included."""
    kv_tokens: int = 0
    """Sum of the KV lengths attended to."""
    dropped_rows: int = 0
    """Forwards launched ahead for requests that had ended. Nothing else counts them."""
    continued_requests: int = 0
    """Requests that another worker had begun and that went on here."""
    continued_tokens: int = 0
    """Tokens of finished requests that another worker had generated. They are part of `tokens_generated`."""
    continued_rows: int = 0
    """Forwards that computed the KV of continued requests again. Nothing else counts them."""
    model_s: float = 0.0
    """Seconds in forward and sampling."""
    host_s: float = 0.0
    """Seconds of the steps outside of forward and sampling."""
    requests_finished: int = 0
    """Requests that ended without an error."""
    requests_failed: int = 0
    """Requests that ended with an error."""
    requests_cancelled: int = 0
    """Requests that were ended because nobody waits for them."""
    tokens_generated: int = 0
    """Tokens of finished requests; so are the next three."""
    nfe: int = 0
    """Function evaluations, as the reference counts them."""
    accepted: int = 0
    """Tokens emitted by verifies."""
    cycles: int = 0
    """Verifies."""
    widths: dict[str, int] = field(default_factory=dict)
    """Cycles of finished requests of auto, by their width."""
    chosen_tokens: int = 0
    """Tokens of these after their first; without continued requests, and so are the next."""
    fixed_tokens: dict[str, float] = field(default_factory=dict)
    """What each fixed width would have given in the same time, see `Cost`. A request whose cycles may not be so wide
    counts with its widest."""


@dataclass(slots=True, kw_only=True)
class WorkerStats(EngineTotals):
    """What runs in a worker now, and its engine's totals since the start."""

    running: int = 0
    """Requests that are being decoded."""
    waiting: int = 0
    """Requests that have no slot yet."""
    pages_total: int = 0
    """Pages of the KV cache."""
    pages_free: int = 0
    pages_shared: int = 0
    """Pages kept for later prompts that begin alike."""

    def to_json(self) -> dict[str, object]:
        """A plain dict, ready for json: the fields, then the ratios that follow from them (None where undefined)."""
        busy_s = self.model_s + self.host_s
        return dataclasses.asdict(self) | {
            "tpf": self.tokens_generated / self.nfe if self.nfe else None,
            "acceptance_length": self.accepted / self.cycles if self.cycles else None,
            "tokens_per_second": (self.tokens_generated - self.continued_tokens) / busy_s if busy_s else None,
            "forwards_per_second": self.steps / busy_s if busy_s else None,
            "regret": max(self.fixed_tokens.values()) / self.chosen_tokens - 1
            if self.fixed_tokens and self.chosen_tokens
            else None,
            "host_gap": self.host_s / busy_s if busy_s else None,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> WorkerStats:
        """Returns what `to_json` wrote; the ratios follow from the fields."""
        return cls(**{item.name: raw[item.name] for item in dataclasses.fields(cls)})


class Worker(Protocol):
    """One model on one device that answers requests: in this process, or a proxy of one in another process."""

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None = None) -> Generation:
        """Answers one request. Cancelling the call cancels the request.

        Args:
            fields: a prompt and DECODE_FIELDS (see workers.params); `request_id` names the request for `cancel`.
            on_delta: called in the event loop with each part of the answer, before this call returns. None = the
                answer is wanted as a whole.

        Raises:
            GenerationError: this request is refused or failed.
            WorkerError: the worker is closed, broken or gone.
        """

    async def stream(self, fields: Mapping[str, object]) -> AsyncIterator[Delta | Generation]:
        """Yields the parts of the answer to one request, then the whole. Raises as `generate` does."""
        parts: asyncio.Queue[Delta | None] = asyncio.Queue()
        work = asyncio.ensure_future(self.generate(fields, parts.put_nowait))
        work.add_done_callback(lambda _: parts.put_nowait(None))
        try:
            while (part := await parts.get()) is not None:
                yield part
            yield work.result()
        finally:
            work.cancel()

    async def flush(self) -> None:
        """Writes down the running requests, if the worker has a journal. Called before it is ended."""

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Answers a question about text, in values that JSON has.

        Args:
            task: `tokenize` (fields: a prompt as for `generate`; returns tokens), `detokenize` (fields: tokens; returns
                text) or `vocabulary` (see workers.vocabulary).
            fields: of the task.

        Raises:
            GenerationError: the fields are refused.
            WorkerError: the worker is closed, broken or gone.
        """

    async def cancel(self, request_id: str) -> None:
        """Ends a request at the next step. One that is unknown or over is ignored."""

    def info(self) -> WorkerInfo:
        """Returns what this worker is."""

    async def stats(self) -> WorkerStats:
        """Returns its counters. WorkerError when it does not answer."""

    def close(self) -> None:
        """Ends the worker; its running requests get a WorkerError."""
