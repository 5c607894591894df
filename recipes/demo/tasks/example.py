"""The example: one benchmark row with the answer that the model is trained on."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One benchmark row and the text the model should write for it."""

    row: dict[str, Any]
    answer: str
