"""Attention of a block of new tokens over a cache, causal or full per row."""

from trimode.kernels.paged_attention.cpu import attends, paged_attention
from trimode.kernels.paged_attention.reference import block_attention, masked_attention, visible_keys

__all__ = ["attends", "block_attention", "masked_attention", "paged_attention", "visible_keys"]
