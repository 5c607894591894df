"""Finds a model of the Hugging Face hub in the local cache, without the hub's own package and without a download."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def hub_cache(environment: Mapping[str, str], home: str | None = None) -> Path:
    """Returns the folder of cached repositories; `home` stands for HF_HOME and wins over the variables."""
    if home is None and (named := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")):
        return Path(os.path.normpath(Path(named).expanduser().absolute()))
    above = environment.get("XDG_CACHE_HOME") or "~/.cache"
    folder = home or environment.get("HF_HOME") or f"{above}/huggingface"
    return Path(os.path.normpath(Path(folder).expanduser().absolute())) / "hub"


def repository(cache: Path, model: str) -> Path:
    """Returns the folder that the cache has for a hub id."""
    return cache / f"models--{model.replace('/', '--')}"


def snapshot(cache: Path, model: str, revision: str | None) -> Path | None:
    """Returns the cached files of a hub id at a commit, branch or tag (None: main); None if they are not there."""
    name = revision or "main"
    try:
        commit = (repository(cache, model) / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = name
    folder = repository(cache, model) / "snapshots" / commit
    return folder if commit and folder.is_dir() else None
