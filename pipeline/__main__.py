"""`python -m trimode.pipeline KEY=VALUE ...`: a sweep from Hydra overrides; `-m` runs one sweep per combination.

The sweeps of `-m` are planned together, and under Slurm submitted together.
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
from trimode.core.command import run_command
from trimode.core.errors import USER_ERROR
from trimode.core.project import CONF_DIR
from trimode.pipeline.config.compose import register, to_config
from trimode.pipeline.config.hydra_errors import describe_error
from trimode.pipeline.config.multirun import compose_all
from trimode.pipeline.sweep import guarded_sweep, run, run_all

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
    """Composes the sweeps with Hydra and runs them. Returns the exit status."""
    if (combinations := multirun_overrides(sys.argv[1:])) is not None:
        return run_all(compose_all(combinations), Path.cwd())
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


def multirun_overrides(argv: list[str]) -> list[str] | None:
    """Returns the overrides of `-m OVERRIDE ...`; None if no multirun is asked for, or more than overrides are given.

    Hydra itself answers everything else: its help, its information, another config.
    """
    words = [word for word in argv if word not in ("-m", "--multirun")]
    if len(words) == len(argv) or any(word.startswith("-") for word in words):
        return None
    return words


if __name__ == "__main__":
    run_command(main)
