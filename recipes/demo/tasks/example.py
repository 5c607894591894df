"""The example: one benchmark row with the answer the model is taught; knows no task and no prompt."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One benchmark row and the text the model should write for it."""

    row: dict[str, Any]
    answer: str
