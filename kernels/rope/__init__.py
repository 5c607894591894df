"""Rotary position embedding with static YaRN frequencies."""

from trimode.kernels.rope.cpu import rotate_and_store, rotates
from trimode.kernels.rope.reference import apply_rope
from trimode.kernels.rope.tables import query_scale, rope_cos_sin, yarn_inv_freq

__all__ = ["apply_rope", "query_scale", "rope_cos_sin", "rotate_and_store", "rotates", "yarn_inv_freq"]
