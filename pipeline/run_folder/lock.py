"""The locked versions of scripts/locks/: their hash, and the installed packages that have another version."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from trimode.core.project import PROJECT_DIR

LOCKS = PROJECT_DIR / "scripts" / "locks"
"""Absent where the package was installed without its repository."""


def lock_sha256(folder: Path = LOCKS) -> str | None:
    """Returns the hash of all lock files, as `cat scripts/locks/*.txt | sha256sum` prints it; None without any."""
    content = b"".join(path.read_bytes() for path in sorted(folder.glob("*.txt")))
    return hashlib.sha256(content).hexdigest() if content else None


def lock_differences(folder: Path = LOCKS) -> list[str]:
    """Returns one line per installed package that has another version than the lock gives this Python and machine."""
    lines = set()
    for locked in {requirement for path in folder.glob("*.txt") for requirement in locked_requirements(path)}:
        if locked.marker is not None and not locked.marker.evaluate():
            continue
        try:
            installed = importlib.metadata.version(locked.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not locked.specifier.contains(installed, prereleases=True):  # 2.13.0+cpu counts as 2.13.0
            lines.add(f"{locked.name} {installed}, locked {str(locked.specifier).removeprefix('==')}")
    return sorted(lines)


def locked_requirements(path: Path) -> Iterator[Requirement]:
    """Yields the `name==version ; marker` of each entry of a lock file, without its hashes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            yield Requirement(line.removesuffix("\\"))
