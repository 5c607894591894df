"""The product with a weight matrix."""

from trimode.kernels.linear.cpu import pack, packs, product
from trimode.kernels.linear.reference import linear

__all__ = ["linear", "pack", "packs", "product"]
