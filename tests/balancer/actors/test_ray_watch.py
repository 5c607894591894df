"""A GCS that dies while Ray starts ends the process that waits for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.project import child_environment

pytestmark = pytest.mark.process

START = """import logging, subprocess, sys, time
from pathlib import Path
from trimode.balancer.actors.ray_watch import end_with_gcs
logging.basicConfig(stream=sys.stderr)
folder = Path(sys.argv[1])
with end_with_gcs(folder):
    gcs = subprocess.Popen([folder / "gcs_server", "600"], cwd=folder)
    time.sleep(1)
    if sys.argv[2] == "killed":
        gcs.kill()
        time.sleep(60)
gcs.kill()
"""


@pytest.mark.parametrize(("end", "status"), [("killed", 1), ("well", 0)])
def test_a_start_without_gcs_ends(tmp_path: Path, end: str, status: int) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, tmp_path / "gcs_server")
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path), end], env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert ("gcs_server was killed or has ended while Ray started" in done.stderr) == (status == 1)
