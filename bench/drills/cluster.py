"""A private Slurm cluster of two nodes on this machine, its daemons, and its clock."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import ConfigError, WorkerError
from trimode.core.project import PROJECT_DIR

SCRIPTS = PROJECT_DIR / "tests" / "end_to_end" / "slurm"
"""Where cluster_up.sh and cluster_down.sh are."""
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
PORTS = (0, 1, 11, 12)
"""Ports that a cluster uses, counted from its first one."""
SETTINGS = ("SlurmdTimeout=20", "InactiveLimit=0", "MinJobAge=3600")
"""Lines of slurm.conf that make drills quick, and keep ended jobs in squeue."""
REST_S = 7.0
"""Seconds between a requeue and the next start. Slurm 22.05 mixes up two runs that follow at once."""
ANSWER_S = 60.0
"""Longest wait for Slurm's daemons to answer again."""


def missing_daemons() -> list[str]:
    """Returns the programs of Slurm that this machine lacks. /usr/sbin, where they lie, is put on PATH."""
    if "/usr/sbin" not in os.environ["PATH"].split(":"):
        os.environ["PATH"] += ":/usr/sbin:/sbin"
    return [name for name in DAEMONS if shutil.which(name) is None]


def free_port() -> int:
    """Returns a port that is free together with those the cluster puts above it.

    The system gives ports from 32768 on to any connection, so one of those may be taken at the next moment.
    """
    for _ in range(100):
        port = random.randrange(20000, 32000)  # noqa: S311 (no secret)
        if all(is_free(port + offset) for offset in PORTS):
            return port
    raise OSError("no free ports for a cluster")


def is_free(port: int) -> bool:
    """True if nothing on this machine listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def running_cluster(settings: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """Yields a running cluster; SLURM_CONF points at it. `settings`: further lines of slurm.conf.

    Raises ConfigError if Slurm is not installed.
    """
    if missing := missing_daemons():
        raise ConfigError(f"Slurm is not installed ({', '.join(missing)} missing); valid: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="trimode-slurm-"))
    folder.chmod(0o755)  # munged wants to be reached by everybody
    down = f"bash {SCRIPTS / 'cluster_down.sh'} {folder}; rm -rf {folder}"
    # a killed process cleans up nothing, so somebody else waits for its end
    guard = subprocess.Popen(["bash", "-c", f"tail --pid={os.getpid()} -f /dev/null; {down}"], start_new_session=True)
    before = os.environ.get("SLURM_CONF")
    try:
        up = ["bash", str(SCRIPTS / "cluster_up.sh"), str(folder), str(free_port()), *settings]
        subprocess.run(up, check=True)
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        yield Cluster(folder)
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        subprocess.run(["bash", "-c", down], check=False)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster."""

    folder: Path

    def pid(self, daemon: str) -> int:
        """Returns the process id of `slurmctld`, or of the slurmd of a node (`slurmd.n1`)."""
        return int((self.folder / "run" / f"{daemon}.pid").read_text(encoding="ascii"))

    def restart_slurmd(self, node: str) -> None:
        """Starts the slurmd of a node."""
        self._start("slurmd", "-N", node)

    def restart_slurmctld(self) -> None:
        """Starts slurmctld and waits until it answers."""
        self._start("slurmctld")
        deadline = time.monotonic() + ANSWER_S
        while "is UP" not in scontrol("ping"):
            if time.monotonic() > deadline:
                raise WorkerError("slurmctld does not answer after its restart")
            time.sleep(0.2)

    def _start(self, *command: str) -> None:
        subprocess.run(["setsid", *command], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, check=True)

    def make_idle(self) -> None:
        """Brings every node back and waits until jobs can start on all of them."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            states = dict(
                line.split() for line in output("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
            )
            bad = [node for node, state in states.items() if state.rstrip("*") not in ("idle", "mixed", "allocated")]
            if not bad and states:
                return
            for node in bad:
                scontrol("update", f"NodeName={node}", "State=RESUME")
            if time.monotonic() > deadline:
                raise WorkerError(f"nodes do not come back: {states}")
            time.sleep(0.5)


def output(*command: str) -> str:
    """Returns what a command of Slurm prints on stdout; an empty string if it fails or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""


def scontrol(*arguments: str) -> str:
    """Returns what scontrol prints on stdout."""
    return output("scontrol", *arguments)


def node_of(job_id: str) -> str:
    """Returns the node on which a job's batch script runs; empty while it runs on none."""
    words = scontrol("show", "job", "--oneliner", job_id).split()
    return next((word.partition("=")[2] for word in words if word.startswith("BatchHost=")), "")
