"""The seam between a decoding mode and the engine: what a mode asks to run next, and what it gets back.

Knows no tensors beyond opaque handles and never calls the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Confidence(StrEnum):
    """Which probability of the sampled token counts as its confidence."""

    RAW = "raw"
    """softmax of the raw logits over the full vocabulary (dlm, ar)."""
    TEMPERED = "tempered"
    """Probability in the distribution it was sampled from (linear_spec drafts)."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Ask which sampled positions to commit (kernels.confidence_commit)."""

    threshold: float
    """inf = none."""
    num_best: int
    """Committed whatever their confidence."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Ask how many tokens of a block the causal pass accepts (kernels.prefix_verify)."""

    block: Sequence[int]
    """Seed and drafts."""
    proposals: Sequence[object] | None = None
    """Handles of the distributions the drafts were drawn from, one per draft: accept by rejection sampling.
    None: accept where the verifier's own sample equals the draft."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One request's part of the next forward."""

    kind: str
    """One of protocol.FORWARD_KINDS; counted in the ledger."""
    token_ids: Sequence[int]
    position: int
    """Absolute position of the first token = tokens whose KV is kept so far."""
    causal: bool
    """False: every token sees the whole chunk."""
    keep_kv: bool
    """False: the chunk's KV serves this pass only."""
    rows: Sequence[int]
    """Chunk indices whose logits are wanted; may be empty."""
    purpose: str
    """What the samples are for: part of the key of their randomness."""
    lora: bool = False
    selection: Commit | Verify | None = None
    confidence: Confidence = Confidence.RAW
    sample_offset: int = 0
    """Added to a row's position to give the position that its sample is for: 1 for causal rows, 0 for full ones."""
    keep_distribution: bool = False
    """Hand back the distribution of each row as an opaque handle."""
    history: Sequence[int] | None = None
    """Tokens a repetition penalty acts on; None = no penalty."""


@dataclass(slots=True)
class Sampled:
    """What came back, one entry per wanted row."""

    tokens: list[int]
    confidences: list[float]
    logprobs: list[float]
    """Log-probability of each token under the raw softmax."""
    committed: list[bool] = field(default_factory=list)
    """With Commit: which rows to commit."""
    accepted: int = 0
    """With Verify: tokens to emit, 1 .. block length."""
    distributions: list[object] = field(default_factory=list)
    """With keep_distribution."""
