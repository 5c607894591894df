"""Protocol of the scripts in the sandbox: task as JSON on stdin, verdict with a nonce on the last line of stdout.

The task carries the functions and modules that the script disables before the answer runs.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from trimode.pipeline.scoring.sandbox.run import Limits, run_program

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
"""Module -> names that the original harnesses set to None before an answer runs."""
BLOCKED = ("ipdb", "joblib", "resource", "psutil", "tkinter")
"""Modules that an answer cannot import in the original harnesses."""


def run_harness(script: Path, task: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Runs a harness script on `task`. Returns its verdict, or {} if it ended without one."""
    nonce = secrets.token_hex(16)
    full = {**task, "nonce": nonce, "disabled": DISABLED, "blocked": BLOCKED}
    outcome = run_program(script.read_text(encoding="utf-8"), json.dumps(full), limits)
    try:
        verdict = json.loads(outcome.stdout.rstrip("\n").rpartition("\n")[2])
    except json.JSONDecodeError:
        return {}
    return verdict if isinstance(verdict, dict) and verdict.get("nonce") == nonce else {}
