"""Reads jobs back from JSON: from plan.json, manifest.json and the calls of a submission."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from trimode.pipeline.spec import JobSpec


def job_from_json(raw: object) -> JobSpec | None:
    """Returns the job that an entry of plan.json or manifest.json describes.

    Returns None for a damaged entry, and for one of a release whose jobs lacked fields that they have today.
    """
    try:
        job = _from_json(JobSpec, raw)
    except (TypeError, ValueError):
        return None
    assert isinstance(job, JobSpec)
    return job


def _from_json(kind: object, raw: object) -> object:
    """Returns a value from JSON as the annotated type `kind`; unknown keys of an object are left out.

    Raises TypeError or ValueError when it does not fit.
    """
    options = get_args(kind)
    if isinstance(kind, UnionType):  # of one type and None
        return None if raw is None else _from_json(options[0], raw)
    plain = get_origin(kind) or kind
    assert isinstance(plain, type)
    if plain is tuple:
        if not isinstance(raw, list):
            raise TypeError(f"got {raw!r}; valid: a list")
        kinds = [options[0]] * len(raw) if options[-1] is Ellipsis else options
        return tuple(_from_json(each, item) for each, item in zip(kinds, raw, strict=True))
    if dataclasses.is_dataclass(plain):
        if not isinstance(raw, dict):
            raise TypeError(f"got {raw!r}; valid: an object")
        kinds_by_name = get_type_hints(plain)
        names = [item.name for item in dataclasses.fields(plain) if item.name in raw]
        return plain(**{name: _from_json(kinds_by_name[name], raw[name]) for name in names})
    if issubclass(plain, StrEnum) and isinstance(raw, str):
        return plain(raw)
    if plain is float and type(raw) is int:
        return float(raw)
    if type(raw) is not plain:
        raise TypeError(f"got {raw!r}; valid: {plain.__name__}")
    return raw
