"""Finds the rows of a data file that cannot be asked, and says why.

Such a row is recorded without an answer and with the reason. It never stops the other rows.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data.prompts import user_message

DATA_ERROR = "data_error"
"""The only field of a row whose line could not be read: the reason."""
MAX_DEPTH = 100
"""Most levels of lists and objects inside each other in a row. Deeper rows cannot be written again."""
CONVERSION_ERRORS = (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What a conversion raises for a raw row with other fields or values than it expects."""


def parse_line(line: bytes) -> Row:
    """Returns the row in one line of a data file. For a line that holds none: a row with nothing but DATA_ERROR."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {DATA_ERROR: f"is no JSON ({error})"}
    if not isinstance(value, dict):
        return {DATA_ERROR: f"is no JSON object: got {type(value).__name__}"}
    if _is_too_deep(value):
        return {DATA_ERROR: f"is nested too deeply; valid: up to {MAX_DEPTH} levels"}
    return value


def converted(convert: Callable[[Row], Row], raw: Row) -> Row:
    """Returns a raw row in prepared form. A row that cannot be converted becomes one with nothing but DATA_ERROR."""
    if raw.keys() == {DATA_ERROR}:
        return raw
    try:
        return convert(raw)
    except CONVERSION_ERRORS as error:
        return {DATA_ERROR: f"cannot be converted ({type(error).__name__}: {error}); it has: {', '.join(raw)}"}


def row_error(benchmark: Benchmark, row: Row) -> str | None:
    """Returns why a row cannot be asked, as the end of a sentence that begins with its name; None if it can be.

    A row can be asked if it has every field of the prompt, each as text or a finite number, the prompt is valid
    Unicode, and its expected answer, if it has one, is text or a finite number.
    """
    if row.keys() == {DATA_ERROR}:
        return str(row[DATA_ERROR])
    fields = sorted({name for _, name, _, _ in string.Formatter().parse(benchmark.prompt) if name})
    if missing := [name for name in fields if name not in row]:
        return f"has no field {', '.join(missing)}; it has: {', '.join(row)}"
    for name in (*fields, "expected_answer"):
        if name in row and not _is_text_or_number(row[name]):
            return f"has a field {name} that is no text: got {_shown(row[name])}; valid: text or a finite number"
    try:
        user_message(benchmark, row).encode()
    except UnicodeEncodeError as error:
        got = ascii(error.object[error.start : error.start + 1])
        return f"has a prompt that is no valid Unicode: got {got} at character {error.start + 1}"
    except ConfigError as error:
        return f"does not fit: {error}"
    return None


def _is_text_or_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [item for item in level if isinstance(item, dict | list)]
        if not nested:
            return False
        level = [item for part in nested for item in (part.values() if isinstance(part, dict) else part)]
    return True
