"""Tri-mode operators, one folder each: `reference.py` is the formula in plain torch; a Triton kernel comes beside it.

Knows tensors only: no requests, no pages, no checkpoints.
"""
