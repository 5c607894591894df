"""Turns examples into [noisy | clean] training batches with their attention mask and targets.

The noisy stream of a row holds blocks of the answer. Each block starts at a random position, so blocks begin at any
phase. The prompt is never masked and needs no noisy copy. A block sees itself in both directions, and the clean stream
strictly before its start. The clean stream is causal. The first position of a block is always clean, because decoding
starts each block with a token that the causal pass has already fixed. Behind the end of a row, blocks are filled with
eos."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from trimode.recipes.demo.tokenizer import EOS_ID, MASK_ID

BLOCK = 32


@dataclass(frozen=True)
class Row:
    """One tokenised example: the rendered prompt, and the answer with its tail `<|im_end|>` and newline."""

    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class NoisePlan:
    """How blocks are placed and masked."""

    blocks_per_row: int = 2
    aligned_share: float = 0.4  # blocks at the phase of block decoding: 0, 32, ... behind the prompt
    full_share: float = 0.0  # blocks with everything but the first position masked, besides those drawn so
    least_rate: float = 0.2  # the masking rate is at least this, which bounds the weight 1 / rate


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass; T counts noisy then clean positions."""

    ids_bt: Tensor
    positions_bt: Tensor
    mask_btt: Tensor
    ar_index: Tensor  # flat positions whose next token is learnt
    ar_target: Tensor
    noisy_index: Tensor  # flat masked positions
    noisy_target: Tensor
    noisy_weight: Tensor  # 1 / masking rate


def block_start(row: Row, plan: NoisePlan, rng: random.Random) -> int:
    """Draws the position of the first token of a noisy block."""
    content = len(row.answer_ids) - 2
    if rng.random() < plan.aligned_share:
        return len(row.prompt_ids) + rng.choice(range(0, content, BLOCK))
    return len(row.prompt_ids) + rng.randrange(content)


def masking_rate(plan: NoisePlan, rng: random.Random) -> float:
    """Draws the share of a block's positions that are masked."""
    if rng.random() < plan.full_share:
        return 1.0
    return plan.least_rate + (1 - plan.least_rate) * rng.random()


def attention_mask(starts: Sequence[Sequence[int]], clean_length: int) -> Tensor:
    """Returns [B, T, T], True where the query (second axis) may see the key (third axis)."""
    noisy = len(starts[0]) * BLOCK
    total = noisy + clean_length
    mask = torch.zeros(len(starts), total, total, dtype=torch.bool)
    mask[:, noisy:, noisy:] = torch.ones(clean_length, clean_length, dtype=torch.bool).tril()
    if not noisy:
        return mask
    block_of = torch.arange(noisy) // BLOCK
    mask[:, :noisy, :noisy] = block_of[:, None] == block_of[None, :]
    first = torch.tensor(starts).repeat_interleave(BLOCK, dim=1)
    mask[:, :noisy, noisy:] = torch.arange(clean_length)[None, None, :] < first[:, :, None]
    return mask


def assemble(rows: Sequence[Row], plan: NoisePlan, rng: random.Random) -> Batch:
    """Returns one batch. All randomness comes from `rng`."""
    noisy = plan.blocks_per_row * BLOCK
    clean_length = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    clean_length += -clean_length % 8
    total = noisy + clean_length
    ids, positions, starts = [], [], []
    ar: list[tuple[int, int]] = []
    masked: list[tuple[int, int, float]] = []
    for index, row in enumerate(rows):
        clean = row.prompt_ids + row.answer_ids
        padded = clean + [EOS_ID] * (clean_length + BLOCK - len(clean))
        origin = index * total
        line: list[int] = []
        places: list[int] = []
        starts.append([block_start(row, plan, rng) for _ in range(plan.blocks_per_row)])
        for start in starts[-1]:
            rate = masking_rate(plan, rng)
            for offset in range(BLOCK):
                token = padded[start + offset]
                if offset and rng.random() < rate:
                    masked.append((origin + len(line), token, 1 / rate))
                    token = MASK_ID
                line.append(token)
                places.append(start + offset)
        ids.append(line + padded[:clean_length])
        positions.append(places + list(range(clean_length)))
        ar += [(origin + noisy + place - 1, clean[place]) for place in range(len(row.prompt_ids), len(clean))]
    return Batch(
        torch.tensor(ids),
        torch.tensor(positions),
        attention_mask(starts, clean_length),
        torch.tensor([place for place, _ in ar]),
        torch.tensor([token for _, token in ar]),
        torch.tensor([place for place, _, _ in masked], dtype=torch.long),
        torch.tensor([token for _, token, _ in masked], dtype=torch.long),
        torch.tensor([weight for _, _, weight in masked], dtype=torch.float),
    )
