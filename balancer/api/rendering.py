"""Writes replies as JSON: at once, or piece by piece where a thread makes a large one beside the event loop."""

from __future__ import annotations

import json
from collections.abc import Iterator

PIECE = 256
"""Entries of a list that are written at a time: the encoder lets no other thread run before it is done."""
DEPTH = 5
"""Lists and objects further inside than this are written at once."""


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_json(value: object) -> str:
    """Returns compact JSON. ValueError for NaN and infinities, which JSON lacks."""
    return _ENCODER.encode(value)


def to_json_in_pieces(value: object) -> str:
    """Returns the same. In a thread, it lets others run again and again meanwhile, and takes a few times as long."""
    return "".join(_pieces(value, 0))


def _pieces(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and value and depth < DEPTH:
        for number, (name, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}{to_json(name)}:"
            yield from _pieces(item, depth + 1)
        yield "}"
    elif isinstance(value, list) and len(value) > 1 and depth < DEPTH:
        step = 1 if depth <= 1 and isinstance(value[0], dict) else PIECE  # each choice is large
        for start in range(0, len(value), step):
            yield "," if start else "["
            if step == 1:
                yield from _pieces(value[start], depth + 1)
            else:
                yield to_json(value[start : start + step])[1:-1]
        yield "]"
    elif isinstance(value, list) and value and depth < DEPTH:
        yield "["
        yield from _pieces(value[0], depth + 1)
        yield "]"
    else:
        yield to_json(value)
