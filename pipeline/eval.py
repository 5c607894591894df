"""`python -m trimode.pipeline.eval FLAGS`: what eval.sh starts once there is an environment.

Knows no settings; flags become Hydra overrides, and these a sweep.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flags import to_overrides
from trimode.pipeline.sweep import guarded, run


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit status: 0, 1 a failed job or submission, 2 an error of the caller."""
    return guarded(lambda: run(compose(to_overrides(argv)), Path.cwd()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
