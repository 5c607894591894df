"""Sizes that CUDA graphs are captured for, and the graph that a step uses.

A graph runs a fixed number of tokens and of requests. A step is padded up to the next size. A padding token costs as
much as a real one, so token sizes are close together. A padding request costs only programs that end at once, so
request sizes are far apart.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trimode.workers.engine.scheduler import PREFILL_SLICE

MAX_PADDING = 0.12
"""Most padding tokens per real token."""
MAX_QUERIES = 64
"""Longest chunk of graphs that run nothing but blocks, or whole cycles."""
MAX_SLICE = PREFILL_SLICE
"""Longest chunk that a graph runs: the longest slice of a prompt. Longer blocks run without a graph."""
MAX_TOKENS = 4096
"""Largest graph. At this size the device works for so long that launching from the host does not delay it."""
CYCLE_BLOCK = 32
"""Block length that has cycle graphs of its own, without padding: linear_spec's default."""
BLOCK = 8
"""Tokens of the shortest chunk of graphs for blocks and for cycles: dlm's default block."""
_MULTIPLE = 8
"""From 64 tokens on, sizes are multiples of this, the smallest tile of the matrix units."""


class Kind(StrEnum):
    """What a graph computes."""

    FORWARD = "forward"
    """Hidden states, for a sampler that runs without a graph."""
    GREEDY = "greedy pass"
    """One forward with greedy tokens and the decisions that the chunks ask for."""
    CYCLE = "cycle"
    """Draft and verify of linear_spec with greedy tokens."""


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One graph. The order is that of the sizes."""

    tokens: int
    requests: int
    kind: Kind
    min_queries: int
    """Tokens of the shortest chunk, at least. Attention has kernels for chunks of one token and for blocks: the bounds
    tell it which of them a graph needs."""
    max_queries: int
    """Tokens of the longest chunk, at most."""
    lora: bool
    """True if the adapter may be on for some tokens, in a cycle for those of the draft."""

    def __str__(self) -> str:
        """Returns the bucket as messages name it."""
        adapter = " with the adapter" if self.lora else ""
        each = (
            f"{self.min_queries}" if self.min_queries == self.max_queries else f"{self.min_queries}-{self.max_queries}"
        )
        return f"{self.kind} of {self.tokens} tokens and {self.requests} requests of {each}{adapter}"

    def fits(self, lengths: Sequence[int]) -> bool:
        """Returns True if there is room for chunks of these lengths and at most MAX_PADDING is padding."""
        tokens = sum(lengths)
        close = tokens <= self.tokens <= (1 + MAX_PADDING) * tokens
        inside = self.min_queries <= min(lengths) and max(lengths) <= self.max_queries
        return close and inside and len(lengths) <= self.requests


def ladder(largest: int) -> list[int]:
    """Returns ascending sizes such that padding up to the next one costs at most MAX_PADDING. The last is `largest`."""
    sizes: list[int] = []
    while not sizes or sizes[-1] < largest:
        smallest = sizes[-1] + 1 if sizes else 1
        size = int(smallest * (1 + MAX_PADDING))
        rounded = size - size % _MULTIPLE
        if size >= _MULTIPLE * _MULTIPLE and rounded >= smallest:
            size = rounded
        sizes.append(min(size, largest))
    return sizes


class Buckets:
    """All graphs of an engine, and the choice among them."""

    def __init__(self, max_num_seqs: int, *, lora: bool, max_tokens: int = MAX_TOKENS) -> None:
        """Lays out the sizes.

        Args:
            max_num_seqs: most requests of a step.
            lora: True if an adapter is loaded.
            max_tokens: most tokens of a graph, at least CYCLE_BLOCK.
        """
        largest = min(max_tokens, CYCLE_BLOCK * max_num_seqs)
        with_prompt = min(max_tokens, max(largest, MAX_SLICE + max_num_seqs))  # a slice, and a token of all others
        passes = (Kind.FORWARD, Kind.GREEDY)
        found: set[Bucket] = set()
        for kind, requests in itertools.product(passes, ladder(max_num_seqs)):
            found.add(Bucket(requests, requests, kind, 1, 1, False))  # one token each: nobody drafts
        for kind, tokens in itertools.product(passes, ladder(with_prompt)):
            found.add(Bucket(tokens, min(tokens, max_num_seqs), kind, 1, min(tokens, MAX_SLICE), lora))
            if BLOCK <= tokens <= largest and kind is Kind.GREEDY:
                blocks = min(tokens // BLOCK, max_num_seqs)
                found.add(Bucket(tokens, blocks, kind, BLOCK, min(tokens, MAX_QUERIES), False))
        cycles = [(tokens, min(tokens // BLOCK, max_num_seqs)) for tokens in ladder(largest) if tokens >= BLOCK]
        cycles += [(requests * CYCLE_BLOCK, requests) for requests in ladder(largest // CYCLE_BLOCK)]
        for tokens, requests in cycles:
            found.add(Bucket(tokens, requests, Kind.CYCLE, BLOCK, min(tokens, MAX_QUERIES), lora))
        self.all: Sequence[Bucket] = tuple(sorted(found, reverse=True))
        """From the largest to the smallest, the order of capture."""
        ascending = sorted(found, key=lambda b: (b.tokens, b.requests, b.max_queries, -b.min_queries, b.lora))
        self._sizes = {kind: [bucket for bucket in ascending if bucket.kind is kind] for kind in Kind}

    def choose(self, kind: Kind, lengths: Sequence[int], *, lora: bool) -> Bucket | None:
        """Returns the smallest graph for chunks of these lengths. None if there is none or it would pad too much.

        Args:
            kind: what is to run.
            lengths: tokens of each chunk, at least one chunk.
            lora: True if the adapter is on for a chunk.
        """
        tokens = sum(lengths)
        sizes = self._sizes[kind]
        for bucket in sizes[bisect.bisect_left(sizes, tokens, key=lambda bucket: bucket.tokens) :]:
            if bucket.tokens > (1 + MAX_PADDING) * tokens:
                return None
            if bucket.fits(lengths) and (bucket.lora or not lora):
                return bucket
        return None
