"""What a decoding state needs to know beside the parameters of its request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

StopFinder = Callable[[Sequence[int], int], int | None]
"""(output, number of tokens already searched) -> number of tokens to keep if a stop string was found, else None."""


@dataclass(frozen=True, slots=True)
class DecodeContext:
    """What a state needs to know beside the request's parameters."""

    mask_token_id: int
    """Token that stands for a position not yet decoded."""
    eos_token_ids: frozenset[int]
    """The checkpoint's end tokens. They end the output unless the request sets ignore_eos."""
    prefill_slice: int
    """Most prompt tokens in one forward."""
    find_stop: StopFinder | None = None
    """Searches the output for the request's stop strings; None = it has none."""
