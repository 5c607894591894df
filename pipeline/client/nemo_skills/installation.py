"""Finds an installed NeMo-Skills and says which release it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import ConfigError

PYTHON = "TRIMODE_NEMO_SKILLS_PYTHON"
"""Names the interpreter that has NeMo-Skills; unset: this one."""
TESTED = (0, 7)
_PROBE = (
    "import importlib.metadata, importlib.util, json; found = importlib.util.find_spec('nemo_skills'); "
    "version = importlib.metadata.version; "
    "print(json.dumps([version('nemo_skills'), found.submodule_search_locations[0]] if found else None))"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A NeMo-Skills that can be started."""

    python: str
    version: str
    package: Path

    @property
    def is_newer(self) -> bool:
        """True if it is newer than the release this client was tested with."""
        return _release(self.version) > TESTED


def find_installation() -> Installation:
    """The NeMo-Skills to use. Raises ConfigError when there is none, or one too old."""
    python = os.environ.get(PYTHON) or sys.executable
    try:
        probe = subprocess.run(
            [python, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=_environment(python, {}),
        )
        found = json.loads(probe.stdout) if probe.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):
        found = None
    if found is None:
        raise ConfigError(
            f"client nemo_skills needs NeMo-Skills 0.7: {python} has none; install it from its repository "
            f"(github.com/NVIDIA-NeMo/Skills) and name its interpreter in {PYTHON}, or use client=embedded"
        )
    installation = Installation(python=python, version=found[0], package=Path(found[1]))
    if _release(installation.version) < TESTED:
        raise ConfigError(
            f"NeMo-Skills: got {installation.version}; valid: 0.7.0 or newer (before, evaluation was a step of its own)"
        )
    return installation


def _environment(python: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Its commands say a bare `python`: the right one must come first; our own import settings are not for it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    path = os.pathsep.join([str(Path(python).absolute().parent), kept.get("PATH", os.defpath)])
    return {**kept, "PATH": path, **variables}


def _release(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "0"][:2]
    return int(major), int(minor)
