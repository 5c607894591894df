"""Which masked positions of a block a denoising pass commits."""

from trimode.kernels.confidence_commit.reference import confidence_commit

__all__ = ["confidence_commit"]
