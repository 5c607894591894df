"""The command that was typed, as a line that can be typed again in any folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from trimode.core.project import PROJECT_DIR

EVAL = "trimode.pipeline.eval"
"""What eval.sh runs."""


def typed_command() -> str:
    """Returns what started this process: eval.sh or Python, with all arguments, in the current folder."""
    words = [sys.executable, *sys.orig_argv[1:]]
    if EVAL in words:
        words = ["bash", str(PROJECT_DIR / "eval.sh"), *words[words.index(EVAL) + 1 :]]
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(words)}"
