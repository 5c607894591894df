"""A private Slurm cluster of two nodes with GPUs that compute nothing, for the tests of this folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
PORTS = (0, 1, 11, 12)


def free_port() -> int:
    """A port that is free together with those the cluster puts above it."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 60000 and all(is_free(port + offset) for offset in PORTS):
            return port
    raise OSError("no free ports for a cluster")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """Folder of a running cluster; SLURM_CONF points at it. Without Slurm: a failure under CI=true, else left out."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if missing := [name for name in DAEMONS if shutil.which(name) is None]:
        words = f"Slurm is not installed ({', '.join(missing)} missing): {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    folder = Path(tempfile.mkdtemp(prefix="trimode-slurm-"))
    folder.chmod(0o755)  # munged wants to be reached by everybody
    down = f"bash {HERE / 'cluster_down.sh'} {folder}; rm -rf {folder}"
    # a killed pytest runs no teardown, so somebody else waits for its end
    guard = subprocess.Popen(["bash", "-c", f"tail --pid={os.getpid()} -f /dev/null; {down}"], start_new_session=True)
    before = os.environ.get("SLURM_CONF")
    try:
        subprocess.run(["bash", str(HERE / "cluster_up.sh"), str(folder), str(free_port())], check=True)
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        yield folder
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        subprocess.run(["bash", "-c", down], check=False)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
