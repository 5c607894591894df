"""Scoring: verdicts of single rows, the processes that compute them, and metrics over scored rows."""

from trimode.core.protocol import Row
from trimode.pipeline.scoring.pool import ScoringPool
from trimode.pipeline.scoring.registry import check_scorer, finish_rows, score_row

__all__ = ["Row", "ScoringPool", "check_scorer", "finish_rows", "score_row"]
