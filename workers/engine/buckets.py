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

MAX_PADDING = 0.12
"""Most padding tokens per real token."""
MAX_QUERIES = 64
"""Longest chunk that a graph runs. Longer blocks run without a graph, as slices of a prompt do."""
MAX_TOKENS = 4096
"""Largest graph. At this size the device works for so long that launching from the host does not delay it."""
CYCLE_BLOCK = 32
"""Block length that cycle graphs are laid out for: linear_spec's default."""
BLOCK = 8
"""Tokens per request that graphs of one pass with several tokens per request are laid out for: dlm's default block."""
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
    lora: bool
    """True if the adapter may be on for some tokens, in a cycle for those of the draft."""

    def __str__(self) -> str:
        """Returns the bucket as messages name it."""
        adapter = " with the adapter" if self.lora else ""
        return f"{self.kind} of {self.tokens} tokens and {self.requests} requests{adapter}"

    @property
    def max_queries(self) -> int:
        """Tokens of the longest chunk."""
        return min(self.tokens, MAX_QUERIES)


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
        self._max_num_seqs = max_num_seqs
        largest = min(max_tokens, CYCLE_BLOCK * max_num_seqs)
        found: set[Bucket] = set()
        for tokens in ladder(largest):
            few = min(-(-tokens // BLOCK), max_num_seqs)
            many = min(tokens, max_num_seqs)
            for kind, requests in itertools.product((Kind.FORWARD, Kind.GREEDY), (few, many)):
                found.update(Bucket(tokens, requests, kind, adapter) for adapter in {False, lora})
        for requests in ladder(largest // CYCLE_BLOCK):
            for adapter in {False, lora}:
                found.add(Bucket(requests * CYCLE_BLOCK, requests, Kind.CYCLE, adapter))
        self.all: Sequence[Bucket] = tuple(sorted(found, reverse=True))
        """From the largest to the smallest, the order of capture."""
        self._sizes: dict[tuple[Kind, bool], list[Bucket]] = {}
        for bucket in reversed(self.all):
            self._sizes.setdefault((bucket.kind, bucket.lora), []).append(bucket)

    def choose(self, kind: Kind, lengths: Sequence[int], *, lora: bool) -> Bucket | None:
        """Returns the smallest graph for chunks of these lengths. None if there is none or it would pad too much.

        Args:
            kind: what is to run.
            lengths: tokens of each chunk, at least one chunk.
            lora: True if the adapter is on for a chunk.
        """
        tokens, requests = sum(lengths), len(lengths)
        if max(lengths) > MAX_QUERIES:
            return None
        sizes = self._sizes.get((kind, lora), [])
        start = bisect.bisect_left(sizes, tokens, key=lambda bucket: bucket.tokens)
        for bucket in sizes[start:]:
            if bucket.tokens - tokens > MAX_PADDING * tokens:
                return None
            if bucket.requests >= requests:
                return bucket
        return None
