"""`python -m trimode.pipeline.eval FLAGS`: a sweep from the flags of eval.sh, which starts this command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.core.command import run_command
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flags import to_overrides
from trimode.pipeline.sweep import guarded_sweep, run


def main(argv: Sequence[str]) -> int:
    """The command. Returns its exit status: 0, 1 for a failed job or submission, 2 for an error of the caller."""
    return guarded_sweep(lambda: run(compose(to_overrides(argv)), Path.cwd()))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
