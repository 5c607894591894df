"""What a decoder shows of its work to those who watch: the state of a block after each pass over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class TokenState(StrEnum):
    """Where a token of a block stands."""

    MASK = "mask"
    """Nothing is decided here yet."""
    DRAFT = "draft"
    """Drafted and not verified."""
    COMMITTED = "committed"
    """Chosen for good."""
    VERIFIED = "verified"
    """Drafted, and accepted by the verify."""
    STRUCK = "struck"
    """Drafted, and rejected by the verify."""


@dataclass(frozen=True, slots=True)
class BlockToken:
    """One token of a block."""

    token: int
    state: TokenState
    confidence: float | None = None
    """None where no pass has rated the token."""
    set_by: int | None = None
    """Number of the pass that chose the token, 0 for one that was there before the first pass; None for a mask."""


@dataclass(frozen=True, slots=True)
class BlockPass:
    """A block after one pass over it."""

    block: int
    """Number of the block, cycle or token, from 0."""
    number: int
    """Number of the pass over this block, from 1; 0 for a token that comes from the prompt's forward."""
    start: int
    """Position of the first of `tokens` in the output."""
    tokens: Sequence[BlockToken]


def one_token(block: int, number: int, start: int, token: int, logprob: float) -> BlockPass:
    """Returns the pass of a causal forward that chose one token."""
    return BlockPass(block, number, start, [BlockToken(token, TokenState.COMMITTED, math.exp(logprob), number)])
