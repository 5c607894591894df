"""A product of few rows with bfloat16 weights: on CPUs widened in registers, so that reading them is all it costs."""

from trimode.kernels.linear.cpu import pack, packs, product
from trimode.kernels.linear.reference import linear

__all__ = ["linear", "pack", "packs", "product"]
