"""Where results come from: time, hash of the data, versions of packages, commit of the code."""

from __future__ import annotations

import contextlib
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

ROOMS = ("core", "pipeline", "balancer", "workers", "kernels")
"""Folders whose code answers and scores."""


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


def git_commit(root: Path = PROJECT_DIR) -> str:
    """Returns which code this is: its git commit, with a hash of the source where that is not the commit's.

    With edits it is `<commit>+changes.<hash>`, outside of a git checkout `<hash>+source`. So two versions of the code
    never have one name.
    """
    source = source_sha256(root)
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            commit = _git(root, "rev-parse", "HEAD")
            changed = _git(root, "status", "--porcelain", "--untracked-files=no")
            return f"{commit}+changes.{source[:8]}" if changed else commit
    return f"{source[:40]}+source"


def source_sha256(root: Path = PROJECT_DIR) -> str:
    """Hash of the Python files of this project that answers and verdicts depend on: names and content."""
    digest = hashlib.sha256()
    files = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    for path in sorted(files):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
