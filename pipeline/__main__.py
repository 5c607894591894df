"""`python -m trimode.pipeline KEY=VALUE ...`: a sweep from Hydra overrides; `-m` runs one sweep per combination."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from trimode.core.errors import USER_ERROR
from trimode.core.project import CONF_DIR
from trimode.pipeline.config.compose import describe_error, register, to_config
from trimode.pipeline.sweep import guarded_sweep, run

SWEEP_DIR = "TRIMODE_SWEEP_DIR"
"""Variable with the folder of the file that Hydra writes per multirun. It is temporary."""


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def sweep(node: DictConfig) -> None:
    """Runs one composed config to its end. The process ends with the first one that fails."""
    if status := guarded_sweep(lambda: run(to_config(node), Path.cwd())):
        sys.exit(status)


def main() -> int:
    """The command. Returns its exit status; a sweep that fails ends the process instead."""
    return guarded_sweep(compose_and_run)


def compose_and_run() -> int:
    """Lets Hydra compose the sweeps and run each. Returns the exit status."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing a trace and leaving with 1
    with tempfile.TemporaryDirectory(prefix="trimode-") as folder:
        os.environ[SWEEP_DIR] = folder
        try:
            sweep()
        except (HydraException, OmegaConfBaseException) as error:
            print(f"error: {describe_error(error)}", file=sys.stderr)
            return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
