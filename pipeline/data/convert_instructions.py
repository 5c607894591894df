"""Raw rows of IFEval to NeMo-Skills' fields."""

from __future__ import annotations

from trimode.core.protocol import Row


def ifeval(raw: Row) -> Row:
    """Repeats the prompt as `question` and drops null arguments, which the hub's copy has."""
    row = dict(raw)
    kwargs = raw["kwargs"]
    if isinstance(kwargs, list):
        row["kwargs"] = [{name: value for name, value in each.items() if value is not None} for each in kwargs]
    row["question"] = raw["prompt"]
    return row
