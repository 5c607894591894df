"""`python -m trimode.pipeline KEY=VALUE ...`: a sweep from Hydra overrides; `-m` runs one sweep per combination.

Knows no flags: those of eval.sh are translated by trimode.pipeline.eval.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from trimode.core.project import CONF_DIR
from trimode.pipeline.config.compose import config_words, register, to_config
from trimode.pipeline.sweep import USER_ERROR, guarded, run

SWEEP_DIR = "TRIMODE_SWEEP_DIR"
"""Hydra writes a file per multirun; this folder takes it and goes away."""


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def sweep(node: DictConfig) -> None:
    """One composed config, run to its end; the process ends with the first one that fails."""
    if status := guarded(lambda: run(to_config(node), Path.cwd())):
        sys.exit(status)


def main() -> int:
    """The command; returns the exit status of what Hydra itself refuses."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing a trace and leaving with 1
    with tempfile.TemporaryDirectory(prefix="trimode-") as folder:
        os.environ[SWEEP_DIR] = folder
        try:
            sweep()
        except (HydraException, OmegaConfBaseException) as error:
            print(f"error: {config_words(error)}", file=sys.stderr)
            return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
