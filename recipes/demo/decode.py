"""Decodes many rows at once without a cache, to watch training. Evaluation uses the workers' engine instead.

Every pass recomputes [block | prefix], so the code is short and easy to check, not fast."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from trimode.recipes.demo.batches import BLOCK, attention_mask
from trimode.recipes.demo.tokenizer import EOS_ID, MASK_ID

Logits = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ids, positions, mask) -> logits of all positions."""


@dataclass
class Decoding:
    """One row while it is decoded."""

    prompt_ids: list[int]
    output_ids: list[int] = field(default_factory=list)
    nfe: int = 0

    @property
    def prefix(self) -> list[int]:
        """Prompt and output so far."""
        return self.prompt_ids + self.output_ids

    @property
    def done(self) -> bool:
        """True if the output holds eos."""
        return EOS_ID in self.output_ids

    def cut(self) -> None:
        """Drops what follows the first eos."""
        if self.done:
            del self.output_ids[self.output_ids.index(EOS_ID) + 1 :]


def _causal(logits: Logits, lines: Sequence[list[int]]) -> Tensor:
    """Returns causal logits of clean rows, padded at the end."""
    longest = max(map(len, lines))
    ids = torch.tensor([line + [EOS_ID] * (longest - len(line)) for line in lines])
    mask = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(lines), -1, -1)
    return logits(ids, torch.arange(longest).expand(len(lines), -1), mask)


def _blocks(logits: Logits, prefixes: Sequence[list[int]], blocks: Sequence[list[int]]) -> Tensor:
    """Returns the logits of one block per row, which sees its clean prefix."""
    longest = max(map(len, prefixes))
    ids = torch.tensor(
        [block + prefix + [EOS_ID] * (longest - len(prefix)) for block, prefix in zip(blocks, prefixes, strict=True)]
    )
    positions = torch.tensor([[*range(len(prefix), len(prefix) + BLOCK), *range(longest)] for prefix in prefixes])
    mask = attention_mask([[len(prefix)] for prefix in prefixes], longest)
    return logits(ids, positions, mask)[:, :BLOCK]


def _seeds(logits: Logits, rows: Sequence[Decoding]) -> list[int]:
    out = _causal(logits, [row.prefix for row in rows])
    return [int(out[index, len(row.prefix) - 1].argmax()) for index, row in enumerate(rows)]


@torch.no_grad()
def decode_ar(logits: Logits, prompts: Sequence[list[int]], limit: int) -> list[Decoding]:
    """Decodes greedily from left to right."""
    rows = [Decoding(prompt) for prompt in prompts]
    for _ in range(limit):
        active = [row for row in rows if not row.done]
        if not active:
            break
        for row, token in zip(active, _seeds(logits, active), strict=True):
            row.output_ids.append(token)
            row.nfe += 1
    return rows


@torch.no_grad()
def decode_dlm(logits: Logits, prompts: Sequence[list[int]], limit: int, threshold: float) -> list[Decoding]:
    """Decodes by block diffusion: every pass commits the positions above the threshold."""
    rows = [Decoding(prompt) for prompt in prompts]
    for _ in range(limit // BLOCK):
        active = [row for row in rows if not row.done]
        if not active:
            break
        blocks = [[seed] + [MASK_ID] * (BLOCK - 1) for seed in _seeds(logits, active)]
        waiting = list(range(len(active)))
        while waiting := [index for index in waiting if _open(blocks[index])]:
            out = _blocks(logits, [active[index].prefix for index in waiting], [blocks[index] for index in waiting])
            confidence, choice = _without_mask(out).max(-1)
            for place, index in enumerate(waiting):
                active[index].nfe += 1
                _commit(blocks[index], confidence[place], choice[place], threshold)
        for row, block in zip(active, blocks, strict=True):
            row.output_ids += block
            row.nfe += 1
    for row in rows:
        row.cut()
    return rows


def _without_mask(logits: Tensor) -> Tensor:
    """Returns probabilities over the whole vocabulary, with that of the mask token set to zero."""
    probabilities = logits.softmax(-1)
    probabilities[..., MASK_ID] = 0
    return probabilities


def _open(block: list[int]) -> bool:
    """True if the block needs another pass: a mask is left before its first eos."""
    end = block.index(EOS_ID) if EOS_ID in block else BLOCK
    return MASK_ID in block[:end]


def _commit(block: list[int], confidence: Tensor, choice: Tensor, threshold: float) -> None:
    masked = [offset for offset, token in enumerate(block) if token == MASK_ID]
    best = max(masked, key=lambda offset: float(confidence[offset]))
    for offset in masked:
        if offset == best or confidence[offset] >= threshold:
            block[offset] = int(choice[offset])


@torch.no_grad()
def decode_linear_spec(
    logits: Logits,
    draft_logits: Logits,
    prompts: Sequence[list[int]],
    limit: int,
) -> list[Decoding]:
    """Decodes in cycles until eos: one pass drafts a block, one causal pass verifies it."""
    rows = [Decoding(prompt) for prompt in prompts]
    for row, seed in zip(rows, _seeds(logits, rows), strict=True):
        row.output_ids.append(seed)
        row.nfe = 1
    while active := [row for row in rows if not row.done and len(row.output_ids) < limit]:
        caches = [row.prefix[:-1] for row in active]
        blocks = [[row.output_ids[-1]] + [MASK_ID] * (BLOCK - 1) for row in active]
        drafts = _without_mask(_blocks(draft_logits, caches, blocks)).argmax(-1)
        drafts[:, 0] = torch.tensor([block[0] for block in blocks])
        checked = _causal(logits, [cache + draft for cache, draft in zip(caches, drafts.tolist(), strict=True)])
        for index, row in enumerate(active):
            verified = checked[index, len(caches[index]) : len(caches[index]) + BLOCK].argmax(-1).tolist()
            draft = drafts[index].tolist()
            matched = next((place for place in range(BLOCK - 1) if verified[place] != draft[place + 1]), BLOCK - 1)
            row.output_ids += verified[: matched + 1]
            row.nfe += 2
            row.cut()
    return rows
