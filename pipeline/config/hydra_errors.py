"""Says mistakes in settings as all other errors are said: the setting, what came, and what is valid."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import get_args, get_type_hints

from trimode.pipeline.config.schema import ComposedConfig

GROUPS = ("mode", "suite")
"""Groups of conf/ that are no settings: what they hold goes into others."""

_UNKNOWN_CHOICE = re.compile(r"Could not find '(?P<group>[\w/]+)/(?P<name>[^'\n]*)'")
_OPTIONS = re.compile(r"Available options in '[^']*':\n(?P<options>(?:\t[^\n]*\n?)+)")
_UNKNOWN_KEY = re.compile(r"Could not override '(?P<key>[^'\n]+)'")
_WRONG_TYPE = re.compile(
    r"Value (?P<value>'[^\n]*') (?:of type '\w+' could not be converted to|is not a valid) "
    r"(?P<type>Integer|Float|bool)[^\n]*\n +full_key: (?P<key>\S+)"
)
_WRONG_CHOICE = re.compile(
    r"Invalid value (?P<value>'[^\n]*'), expected one of \[(?P<options>[^\]\n]*)\]\n +full_key: (?P<key>\S+)"
)
_VALID = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def describe_error(error: BaseException) -> str:
    """Returns the message of an error of Hydra or OmegaConf and of its causes, in this project's form where known."""
    messages = [str(error).strip()]
    while (cause := error.__cause__) is not None and cause is not error:
        if str(cause).strip() not in messages[-1]:
            messages.append(str(cause).strip())
        error = cause
    return plain(re.sub(r"\n +(object|reference)_type=\w+", "", "\n".join(messages)))


def plain(text: str) -> str:
    """Returns what a message of Hydra means; the message itself if its kind is not known."""
    if (found := _UNKNOWN_CHOICE.search(text)) and (options := _OPTIONS.search(text)):
        return f"{found['group']}: got {found['name']!r}; valid: {', '.join(options['options'].split())}"
    if (found := _WRONG_TYPE.search(text)) is not None:
        return f"{found['key']}: got {found['value']}; valid: {_VALID[found['type']]}"
    if (found := _WRONG_CHOICE.search(text)) is not None:
        return f"{found['key']}: got {found['value']}; valid: {found['options']}"
    if (found := _UNKNOWN_KEY.search(text)) is not None and (message := unknown_setting(found["key"])) is not None:
        return message
    return text


def unknown_setting(key: str) -> str | None:
    """Returns an error that names the part of a dotted key that no setting has; None if every part may exist."""
    node: object = ComposedConfig
    path = key.split(".")
    for depth, part in enumerate(path):
        if not dataclasses.is_dataclass(node):
            entries = [entry for entry in get_args(node) if dataclasses.is_dataclass(entry)]
            if not entries:
                return None
            node = entries[0]  # of a dictionary such as `modes`, whose names are free
            continue
        hints = [*get_type_hints(node), *(GROUPS if depth == 0 else ())]
        if part not in hints:
            place = "valid" if depth == 0 else f"valid in {'.'.join(path[:depth])}"
            near = difflib.get_close_matches(part, hints, n=1)
            hint = f"did you mean {'.'.join([*path[:depth], near[0]])}? " if near else ""
            return f"unknown setting: got {key}; {hint}{place}: {', '.join(hints)}"
        node = get_type_hints(node).get(part)
    if path[0] == "modes" and len(path) > 1:
        return f"{key}: no entry {path[1]!r} of modes is chosen; valid: choose it with mode=..."
    return None
