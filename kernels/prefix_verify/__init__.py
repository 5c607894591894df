"""How many tokens a causal verification of a draft accepts."""

from trimode.kernels.prefix_verify.reference import prefix_verify

__all__ = ["prefix_verify"]
