"""The contract every layer speaks: modes, request parameters, results, worker settings, errors that cross layers.

Knows nothing of models, tensors, HTTP, Ray or Hydra; imports only the standard library, so a login node can read it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """How one set of weights decodes."""

    AR = "ar"
    """Left to right, one token per forward."""
    DLM = "dlm"
    """Block diffusion: a block of masks, positions committed when confident."""
    LINEAR_SPEC = "linear_spec"
    """The model drafts a block by diffusion and verifies it causally."""


FORWARD_KINDS = ("prefill", "decode", "denoise", "cache", "draft", "verify")
"""Every model call of a request is exactly one of these."""


@dataclass(frozen=True, slots=True)
class ModeDefaults:
    """Decoding defaults of one mode, as the public reference's `eval.sh` sets them."""

    block_length: int
    threshold: float | None


MODE_DEFAULTS: dict[Mode, ModeDefaults] = {
    Mode.AR: ModeDefaults(block_length=1, threshold=None),
    Mode.DLM: ModeDefaults(block_length=8, threshold=0.9),
    Mode.LINEAR_SPEC: ModeDefaults(block_length=32, threshold=0.0),
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
    extra: dict[str, str] = field(default_factory=dict)
    """Environment of the worker process, for a launcher that starts it elsewhere."""
