"""What a decoding state needs to know beside the parameters of its request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

StopFinder = Callable[[Sequence[int], int], int | None]
"""(output, number of tokens already searched) -> number of tokens to keep if a stop string was found, else None."""


class WidthChooser(Protocol):
    """Chooses how many tokens one request runs in each of its cycles, and learns what came of it."""

    @property
    def fixed_tokens(self) -> Mapping[int, float]:
        """By width: tokens that the request would have got in the same time, had all requests always had it."""

    @property
    def plain_steps(self) -> int:
        """Steps without a draft that follow a choice of width 1, unless the request ends before."""

    def choose(self, most: int) -> int:
        """Returns the width of the next cycle: 1 for steps without a draft, else the length of its block.

        Args:
            most: largest width of use, at least 1.
        """

    def took(self, width: int, accepted: int, emitted: int, *, ended: bool) -> None:
        """Takes in the result of a cycle, or of the steps that followed a choice of width 1.

        Args:
            width: of the cycle.
            accepted: number of its drafts that the verify accepted, 0 to width - 1.
            emitted: number of tokens that the output grew by.
            ended: True if the answer ends with them, before its limit.
        """


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
    new_chooser: Callable[[int], WidthChooser] | None = None
    """Returns the chooser of a request, from the largest width that it may choose. None = every cycle is as wide as
    the request allows."""
