"""A block with masks takes in what passes commit and knows what is left."""

from __future__ import annotations

from trimode.workers.decode.chunk import Sampled
from trimode.workers.decode.masked_block import MaskedBlock

MASK = 100


def sampled(tokens: list[int], committed: list[bool]) -> Sampled:
    made = Sampled(tokens, [1.0] * len(tokens), [-0.5] * len(tokens))
    made.committed = committed
    return made


def test_commits_land_on_masked_positions_in_order() -> None:
    block = MaskedBlock(7, -0.1, 4, MASK)
    assert block.commit(sampled([1, 2, 3], [False, True, False])) == 1
    assert (block.tokens, block.masked) == ([7, MASK, 2, MASK], [1, 3])
    assert block.commit(sampled([8, 9], [True, True])) == 2
    assert (block.tokens, block.masked) == ([7, 8, 2, 9], [])
    assert block.logprobs == [-0.1, -0.5, -0.5, -0.5]


def test_a_forced_token_is_no_longer_masked() -> None:
    block = MaskedBlock(7, 0.0, 4, MASK)
    block.force(2, 13)
    assert block.masked == [1, 3]
    assert block.commit(sampled([5, 6], [True, True])) == 2
    assert block.tokens == [7, 5, 13, 6]
    assert block.logprobs[2] == 0.0


def test_a_block_of_one_has_nothing_masked() -> None:
    assert MaskedBlock(7, 0.0, 1, MASK).masked == []
    assert len(MaskedBlock(7, 0.0, 3, MASK)) == 3
