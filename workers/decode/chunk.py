"""The interface between a decoding mode and the engine: what a mode asks to run next, and what it gets back.

Distributions pass through as opaque handles, so that the modes need no tensor library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from trimode.core.protocol import Top


def deferred(row: int) -> int:
    """Returns what stands in `token_ids` for a token that the device has not sampled yet.

    Args:
        row: the token is the sample of this wanted row of the chunk that ran for the same request in the step before.
    """
    return -1 - row


def deferred_row(token: int) -> int:
    """Returns the row that a negative token id of `deferred` stands for."""
    return -1 - token


class Confidence(StrEnum):
    """Which probability of the sampled token counts as its confidence."""

    RAW = "raw"
    """Softmax of the raw logits over the full vocabulary (dlm, ar)."""
    TEMPERED = "tempered"
    """Probability in the distribution that the token was sampled from (linear_spec drafts)."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Asks which of the sampled positions to commit (kernels.confidence_commit)."""

    threshold: float
    """Commit every position with at least this confidence; inf = commit none by confidence."""
    num_best: int
    """Commit at least this many positions, the most confident first, even below the threshold."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Asks how many tokens of the chunk, a seed and its drafts, the causal pass accepts (kernels.prefix_verify).

    Such a chunk wants all of its rows.
    """

    proposals: Sequence[object] | None = None
    """Handles of the distributions that the drafts were drawn from, one per draft: accept by rejection sampling.
    None: accept a draft if the verifier's own sample equals it."""


@dataclass(slots=True)
class Chunk:
    """The part of one request in the next forward. Nobody changes one.

    It is not frozen, because a frozen one of so many fields takes three times as long to make, and every request makes
    one in every step.
    """

    kind: str
    """One of protocol.FORWARD_KINDS. Forwards are counted by kind."""
    token_ids: Sequence[int]
    """Those below 0 are not known to the host yet, see `deferred`."""
    position: int
    """Absolute position of the first token. Equals the number of tokens whose KV is kept so far."""
    causal: bool
    """True if each token sees only the tokens before it; False if every token sees the whole chunk."""
    keep_kv: bool
    """True if later forwards may read the chunk's KV; False if it serves this forward only."""
    rows: Sequence[int]
    """Indices within the chunk whose logits are wanted; may be empty."""
    purpose: str
    """What the samples are for. Part of the random number generator's key, so that passes draw independently."""
    lora: bool = False
    """True if the adapter is applied in this forward."""
    selection: Commit | Verify | None = None
    """The decision to make on the sampled rows; None = none."""
    confidence: Confidence = Confidence.RAW
    sample_offset: int = 0
    """Distance from a row's position to the position of its sample: 1 for causal rows, 0 for full attention."""
    keep_distribution: bool = False
    """True if the distribution of each row is returned as an opaque handle."""
    history: Sequence[int] | None = None
    """Tokens that count as seen by penalties: the prompt's, then generated ones. None = no penalty and no bias."""
    num_prompt_history: int = 0
    """How many tokens of `history` are the prompt's. Only the repetition penalty acts on them."""
    again: bool = False
    """True if the chunk reads tokens again that another worker has computed for this request. Such forwards are not the
    request's; they are counted apart."""
    forced_token: int | None = None
    """Token that may take the place of a sampled one: its log-probability is wanted in every row; None = none."""
    targets: Sequence[int] = ()
    """Tokens whose log-probabilities are wanted, of the first rows one each. These rows are not sampled, and their
    samples mean nothing."""
    num_top: int = 0
    """How many of the most probable tokens are wanted in each row."""


@dataclass(slots=True)
class Sampled:
    """The result of a chunk. Every list has one entry per wanted row."""

    tokens: list[int]
    confidences: list[float]
    logprobs: list[float]
    """Log-probability of each token, or of the row's target, under the softmax of the raw logits."""
    committed: list[bool] = field(default_factory=list)
    """True for each row to commit. Empty unless the chunk asks for a Commit."""
    accepted: int = 0
    """Number of tokens to emit, 1 to block length. 0 unless the chunk asks for a Verify."""
    forced_logprobs: list[float] = field(default_factory=list)
    """Log-probability of the chunk's forced token in each row, or of the row's target. Empty unless the chunk names a
    forced token."""
    tops: list[Top] = field(default_factory=list)
    """The most probable tokens of each row under the softmax of the raw logits. Empty unless the chunk wants some."""
    distributions: list[object] = field(default_factory=list)
    """Opaque handles. Empty unless the chunk sets keep_distribution."""
