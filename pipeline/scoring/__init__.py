"""Scoring: verdicts of single rows, processes that give them, and the order of finished rows' keys.

Knows generations that are already there; no model, no server and no SLURM.
"""

from trimode.pipeline.scoring.pool import ScoringPool
from trimode.pipeline.scoring.registry import check_scorer, finish_rows, score_row
from trimode.pipeline.scoring.scorer import Row

__all__ = ["Row", "ScoringPool", "check_scorer", "finish_rows", "score_row"]
