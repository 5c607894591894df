"""What the original harnesses take from a program before it runs. An answer that uses it fails there and must here."""

from __future__ import annotations

import importlib
import os
import re
import sys

DISABLED = {
    "os": (
        *("kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork", "forkpty", "killpg"),
        *("rename", "renames", "truncate", "replace", "unlink", "fchmod", "fchown", "chmod", "chown", "chroot"),
        *("lchflags", "lchmod", "lchown", "getcwd", "chdir"),
    ),
    "builtins": ("quit", "help"),
    "shutil": ("rmtree", "move", "chown"),
    "subprocess": ("Popen",),
}
"""Module -> names that are set to None before an answer runs."""
BLOCKED = ("ipdb", "joblib", "resource", "psutil", "tkinter")
"""Modules that an answer cannot import."""
IMPORTED = re.compile(r"\b(?:import|from)\s+(\w+)")


def load_numpy_for(code: str) -> None:
    """Loads numpy if an answer may import it, because loading it needs what `disable` takes.

    The original harnesses load it always. Here that would take longer than most answers run.
    """
    if "__import__" in code or "importlib" in code or not set(IMPORTED.findall(code)) <= sys.stdlib_module_names:
        importlib.import_module("numpy")


def disable() -> None:
    """Takes them from this process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for module, names in DISABLED.items():
        for name in names:
            setattr(importlib.import_module(module), name, None)
    sys.modules.update(dict.fromkeys(BLOCKED))  # type: ignore[arg-type]
