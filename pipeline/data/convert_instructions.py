"""Raw rows of IFEval to NeMo-Skills' fields.

Knows no files.
"""

from __future__ import annotations

from trimode.core.protocol import Row


def ifeval(raw: Row) -> Row:
    """The row with its prompt repeated as `question`; null arguments, as the hub's copy carries them, are dropped."""
    row = dict(raw)
    kwargs = raw["kwargs"]
    if isinstance(kwargs, list):
        row["kwargs"] = [{name: value for name, value in each.items() if value is not None} for each in kwargs]
    row["question"] = raw["prompt"]
    return row
