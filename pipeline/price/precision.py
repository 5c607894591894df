"""How exact the accuracy of a benchmark will be: the half-width of the report's own interval, before any answer."""

from __future__ import annotations

import functools

import numpy as np
from trimode.pipeline.analysis.statistics import score_interval

ASSUMED = 0.5
"""Accuracy that is assumed: the interval is widest there."""


@functools.cache
def half_width(num_problems: int, repeats: int, greedy: bool) -> float:
    """Returns the expected half-width, as a fraction, of the 95 % interval of an accuracy of ASSUMED.

    Greedy repeats of a problem agree, so they add nothing. Sampled ones are assumed to be of problems of every
    difficulty: as many are solved in no repeat as in one, in two, and so on up to all.
    """
    steps = 1 if greedy else repeats
    solved = np.arange(num_problems, dtype=np.float64) % (steps + 1) / steps
    low, high = score_interval(solved, np.ones(num_problems))
    return (high - low) / 2
