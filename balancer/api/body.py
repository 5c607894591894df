"""From the bytes of a request body to a JSON object that every later step can handle: Unicode text, no name twice.

The time that this takes is bounded by the size of the body and by the context of the model.
"""

from __future__ import annotations

import json
import re
from typing import Any

from trimode.core.errors import InvalidRequestError
from trimode.core.field_rules import CHARACTERS_PER_TOKEN, is_text, show

Json = dict[str, Any]

SPARE_VALUES = 500_000
"""Commas and brackets that a body may hold beside those of a prompt."""
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(body: bytes, max_model_len: int | None = None) -> Json:
    """Parses the body.

    Args:
        body: UTF-8, with or without a byte order mark.
        max_model_len: context of the model in tokens; it bounds how many values the body may hold. None = no bound.

    Raises:
        InvalidRequestError: not JSON, not an object, a name twice in one object, half a surrogate pair in any name or
            string, or more values than a prompt for this model can have.
    """
    if not body.strip():
        raise InvalidRequestError("the body: got nothing; valid: a JSON object")
    if max_model_len is not None:
        _check_number_of_values(body, CHARACTERS_PER_TOKEN * max_model_len + SPARE_VALUES)
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the body: byte {error.start} is not UTF-8; valid: JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InvalidRequestError("the body is not valid JSON: it is nested too deeply") from None
    except ValueError:  # Python converts no integer of more than 4300 digits
        raise InvalidRequestError("the body is not valid JSON: an integer has too many digits") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body: got {show(value)}; valid: a JSON object")
    if _SURROGATE_ESCAPE.search(text):
        _check_text(value)
    return value


def _check_number_of_values(body: bytes, most: int) -> None:
    """Bounds the time of parsing. Counting bytes takes a millisecond where parsing takes seconds."""
    count = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if count > most:
        raise InvalidRequestError(
            f"the body: got {count} commas and brackets; valid: at most {most} for the context of this model"
        )


def _object(pairs: list[tuple[str, object]]) -> Json:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise InvalidRequestError(f"the body: got {show(name)} twice in one object; valid: once")
        names.add(name)
    return value


def _refuse_constant(name: str) -> float:
    raise InvalidRequestError(f"the body is not valid JSON: got {name}; valid: a finite number")


def _check_text(body: Json) -> None:
    """Refuses half a surrogate pair, which JSON can write as an escape but no encoding of Unicode can hold."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _bad_text(body) from None
    except RecursionError:
        raise InvalidRequestError("the body is not valid JSON: it is nested too deeply") from None


def _bad_text(body: Json) -> InvalidRequestError:
    """Returns the error that names the place of the first string with half a surrogate pair."""
    waiting: list[tuple[str, object]] = [("", body)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            for name, item in value.items():
                if not is_text(name):
                    return _half_pair(path or show(name), f"the name {show(name)}")
                waiting.append((f"{path}.{name[:80]}" if path else name[:80], item))
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, str) and not is_text(value):
            return _half_pair(path, "the text")
    return InvalidRequestError("the body holds half a surrogate pair; valid: Unicode text")


def _half_pair(path: str, what: str) -> InvalidRequestError:
    # messages are told apart by place, as in the other errors; of any other field the name is enough
    param = path if path.startswith("messages[") else re.split(r"[.\[]", path, maxsplit=1)[0]
    return InvalidRequestError(f"{path[:200]}: {what} holds half a surrogate pair; valid: Unicode text", param)
