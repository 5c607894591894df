"""The contract between pipeline, balancer and workers: modes, request parameters, results, and what a worker is.

Standard library only, so that a login node can import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Mode(StrEnum):
    """How one set of weights decodes."""

    ar = "ar"
    """Left to right, one token per forward."""
    dlm = "dlm"
    """Block diffusion: a block of masks, positions committed when confident."""
    linear_spec = "linear_spec"
    """The model drafts a block by diffusion and verifies it causally."""
    AR = "ar"
    DLM = "dlm"
    LINEAR_SPEC = "linear_spec"
    """Aliases of the three, for overrides such as `modes.ar.mode=AR`: earlier releases took only these names."""


FORWARD_KINDS = ("prefill", "decode", "denoise", "cache", "draft", "verify")
"""Every model call of a request is exactly one of these."""


@dataclass(frozen=True, slots=True)
class ModeDefaults:
    """Decoding defaults of one mode, as the public reference's `eval.sh` sets them."""

    block_length: int
    threshold: float | None


MODE_DEFAULTS: dict[Mode, ModeDefaults] = {
    Mode.ar: ModeDefaults(block_length=1, threshold=None),
    Mode.dlm: ModeDefaults(block_length=8, threshold=0.9),
    Mode.linear_spec: ModeDefaults(block_length=32, threshold=0.0),
}

DEFAULT_MAX_NEW_TOKENS = 8192
"""Used when a request names none, cut to what is left of the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeParams:
    """What one request asks of the decoder. Built by `workers.params.parse_params`, which checks every field."""

    mode: str
    """A name in workers.decode.registry; the shipped ones are in Mode."""
    max_new_tokens: int
    """Upper bound on generated tokens; the output never exceeds it."""
    block_length: int
    """Tokens per diffusion or draft block (>= 1; 1 for ar)."""
    threshold: float | None
    """Commit confidence in [0, 1]; None = fixed quota in dlm; 0 = one draft pass in linear_spec; ignored in ar."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_thinking_tokens: int | None = None
    """Thinking budget; acts only with an `end_think_token_id`."""
    end_think_token_id: int | None = None
    """Given by the row, or filled in from the tokenizer when `enable_thinking` is on."""
    lora: bool = False
    """Adapter on the drafter; changes nothing in ar and dlm."""
    acceptance: str = "rejection"
    """linear_spec at temperature > 0: `rejection` (speculative sampling) or `equality` (the reference's rule)."""
    logprobs: bool = False


DECODE_FIELDS = frozenset(item.name for item in dataclasses.fields(DecodeParams)) | {"enable_thinking"}
"""Names of the request fields that say how to decode. All are fields of DecodeParams except `enable_thinking`, which
changes the prompt and switches the thinking budget on."""
DECODE_DEFAULTS: Mapping[str, object] = {
    item.name: item.default for item in dataclasses.fields(DecodeParams) if item.default is not dataclasses.MISSING
}
"""Values of the optional fields of DecodeParams when a request does not give them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one request got, and its exact ledger."""

    request_id: str
    token_ids: list[int]
    """Generated ids; the end token is kept."""
    text: str | None
    """Decoded without special tokens, cut at a stop string; None when the checkpoint has no tokenizer."""
    finish_reason: str
    """`stop` (end token, stop string or stop id) or `length`."""
    prompt_tokens: int
    forwards: dict[str, int]
    """Model calls by kind, keys = FORWARD_KINDS."""
    nfe: int
    """The reference's number, derived from `forwards` by one rule per mode (DecodeState.nfe)."""
    trace: list[object] | None
    """dlm: commits per pass, per block; linear_spec: [draft passes, accepted] per cycle; ar: None."""
    acceptance_lengths: list[int]
    """linear_spec: tokens committed per verify; else empty."""
    logprobs: list[float] | None = None
    """Log-probability of each generated token, from the pass that committed it; None unless asked for."""
    queue_s: float = 0.0
    """Seconds from arrival to the first forward."""
    first_token_s: float = 0.0
    """Seconds from arrival to the first committed token."""
    total_s: float = 0.0
    """Seconds from arrival to the end."""

    def to_json(self) -> dict[str, object]:
        """The same as a plain dict, ready for json."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything one worker process needs to start. One worker holds one model on one device."""

    model: str
    """Checkpoint folder in the released layout, or a hub id already in the local hub cache."""
    revision: str | None = None
    """Commit, branch or tag of a hub id; None = main. With the engine hf it is what the remote code is pinned to."""
    lora: str | None = None
    """Adapter folder (peft layout), or None."""
    tokenizer: str | None = None
    """Tokenizer folder; None = the checkpoint's own."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N. auto = cuda when visible, else cpu."""
    dtype: str = "bfloat16"
    """bfloat16 | float32."""
    max_num_seqs: int = 32
    """Requests decoded together."""
    kv_cache_gb: float | None = None
    """KV cache budget in GiB; None = a share of free memory."""
    max_position_embeddings: int | None = None
    """Overrides config.json's context limit."""
    num_threads: int | None = None
    """Torch CPU threads; None = all this process may use."""
    served_model_name: str | None = None
    """Name in /v1/models; None = the folder's name."""

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> WorkerSettings:
        """Returns settings from parsed command-line flags of the same names.

        Flags that are no setting are left out; a setting without a flag keeps its default.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in flags.items() if name in names})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What runs in a worker now, and its engine's counters since the start."""

    running: int = 0
    """Requests that are being decoded."""
    waiting: int = 0
    """Requests that have no slot yet."""
    pages_total: int = 0
    """Pages of the KV cache."""
    pages_free: int = 0
    pages_shared: int = 0
    """Pages kept for later prompts that begin alike."""
    steps: int = 0
    """Forwards of the model over whole batches."""
    rows: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(FORWARD_KINDS, 0))
    """Forwards of single requests, by kind."""
    step_tokens: int = 0
    """Tokens run through the model, prompt tokens included."""
    kv_tokens: int = 0
    """Sum of the KV lengths attended to."""
    model_s: float = 0.0
    """Seconds in forward and sampling."""
    host_s: float = 0.0
    """Seconds of the steps outside of forward and sampling."""
    requests_finished: int = 0
    requests_failed: int = 0
    tokens_generated: int = 0
    """Of finished requests, as the next three."""
    nfe: int = 0
    accepted: int = 0
    """Tokens accepted by verifies."""
    cycles: int = 0
    """Verifies."""

    def to_json(self) -> dict[str, object]:
        """A plain dict, ready for json: the fields, then the ratios that follow from them (None where undefined)."""
        busy_s = self.model_s + self.host_s
        return dataclasses.asdict(self) | {
            "tpf": self.tokens_generated / self.nfe if self.nfe else None,
            "acceptance_length": self.accepted / self.cycles if self.cycles else None,
            "tokens_per_second": self.tokens_generated / busy_s if busy_s else None,
            "forwards_per_second": self.steps / busy_s if busy_s else None,
            "host_gap": self.host_s / busy_s if busy_s else None,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> WorkerStats:
        """Returns what `to_json` wrote; the ratios follow from the fields."""
        return cls(**{item.name: raw[item.name] for item in dataclasses.fields(cls)})


class Worker(Protocol):
    """One model on one device that answers requests: in this process, or a proxy of one in another process."""

    async def generate(self, fields: Mapping[str, object]) -> Generation:
        """Answers one request. Cancelling the call cancels the request.

        Args:
            fields: a prompt and DECODE_FIELDS (see workers.params); `request_id` names the request for `cancel`.

        Raises:
            GenerationError: this request is refused or failed.
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
