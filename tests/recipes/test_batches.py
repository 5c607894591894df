"""The [noisy | clean] batches: who sees whom, what is masked, what is learnt."""

import random

import torch
from trimode.recipes.demo.batches import BLOCK, NoisePlan, Row, assemble, attention_mask
from trimode.recipes.demo.tokenizer import EOS_ID, MASK_ID

ROWS = [
    Row(list(range(200, 207)), [*range(300, 340), EOS_ID, 150]),
    Row(list(range(200, 205)), [301, 302, EOS_ID, 150]),
]


def test_mask_is_the_block_diffusion_rule() -> None:
    starts, clean = [[3, 9]], 20
    mask = attention_mask(starts, clean)[0]
    noisy = 2 * BLOCK
    for query in range(noisy + clean):
        for key in range(noisy + clean):
            if query < noisy and key < noisy:
                allowed = query // BLOCK == key // BLOCK
            elif query < noisy:
                allowed = key - noisy < starts[0][query // BLOCK]
            else:
                allowed = noisy <= key <= query
            assert bool(mask[query, key]) == allowed, (query, key)


def test_prompt_and_block_start_are_never_masked() -> None:
    for seed in range(20):
        batch = assemble(ROWS, NoisePlan(), random.Random(seed))
        noisy = 2 * BLOCK
        for index, row in enumerate(ROWS):
            starts = batch.positions_bt[index, :noisy:BLOCK]
            assert (starts >= len(row.prompt_ids)).all()
            assert (batch.ids_bt[index, :noisy:BLOCK] != MASK_ID).all()
        assert (batch.ids_bt[:, noisy:] != MASK_ID).all()


def test_targets_are_the_tokens_at_their_place() -> None:
    batch = assemble(ROWS, NoisePlan(), random.Random(1))
    total = batch.ids_bt.shape[1]
    assert (batch.ids_bt.flatten()[batch.noisy_index] == MASK_ID).all()
    assert (batch.ids_bt.flatten()[batch.ar_index + 1] == batch.ar_target).all()
    for place, target in zip(batch.noisy_index.tolist(), batch.noisy_target.tolist(), strict=True):
        row = ROWS[place // total]
        clean = row.prompt_ids + row.answer_ids
        position = int(batch.positions_bt.flatten()[place])
        assert target == (clean[position] if position < len(clean) else EOS_ID)


def test_blocks_start_at_every_phase() -> None:
    starts = set()
    for seed in range(300):
        batch = assemble(ROWS[:1], NoisePlan(), random.Random(seed))
        starts |= set((batch.positions_bt[0, : 2 * BLOCK : BLOCK] - len(ROWS[0].prompt_ids)).tolist())
    assert starts == set(range(40))


def test_weight_is_one_over_the_masking_rate() -> None:
    batch = assemble(ROWS, NoisePlan(full_share=1.0), random.Random(0))
    assert torch.equal(batch.noisy_weight, torch.ones_like(batch.noisy_weight))
    assert len(batch.noisy_index) == len(ROWS) * 2 * (BLOCK - 1)
