"""A private Slurm cluster of two nodes with GPUs that compute nothing, for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.bench.drills.cluster import INSTALL, SETTINGS, missing_daemons, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """Folder of a running cluster; SLURM_CONF points at it. Without Slurm: a failure under CI=true, else left out."""
    if missing := missing_daemons():
        words = f"Slurm is not installed ({', '.join(missing)} missing): {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    with running_cluster(SETTINGS) as running:
        yield running.folder
