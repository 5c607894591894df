"""Where results come from: time, hash of the data, versions of packages, commit of the code."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimode.core.project import PROJECT_DIR

PACKAGES = (
    "trimode",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "ray",
    "httpx",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
    "evalplus",
)


def now() -> str:
    """Returns the current time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def data_sha256(rows: Sequence[Mapping[str, object]]) -> str:
    """Hash of a split's rows: their fields and order, not the file's formatting."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that answers and verdicts depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of this code, `+changes` added when files differ from it; None outside a git checkout."""
    root = PROJECT_DIR
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
