"""What a drill does to a living job: one function per kind, and what the table says of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from trimode.bench.drills.cluster import REST_S, Cluster, node_of, scontrol
from trimode.bench.drills.sweep import Sweep

DOWN_S = (1.0, 4.0)
"""Shortest and longest time that a killed daemon of Slurm stays away."""
LOST_NODE_S = 90.0
"""Longest wait until Slurm notices that a node does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One moment of a drill."""

    sweep: Sweep
    cluster: Cluster
    random: random.Random

    def kill(self, program: str) -> bool:
        """Kills the processes of one kind. Returns False if there is none."""
        pids = self.sweep.pids(program)
        self.sweep.look()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)

    def pause(self) -> None:
        """Waits for as long as a daemon of Slurm is away."""
        time.sleep(self.random.uniform(*DOWN_S))


def kill_slurmd(strike: Strike) -> bool:
    """Kills the node's slurmd and starts it again."""
    node = node_of(strike.sweep.job_id)
    if not node:
        return False
    os.kill(strike.cluster.pid(f"slurmd.{node}"), signal.SIGKILL)
    strike.pause()
    strike.cluster.restart_slurmd(node)
    return True


def kill_slurmctld(strike: Strike) -> bool:
    """Kills slurmctld and starts it again."""
    os.kill(strike.cluster.pid("slurmctld"), signal.SIGKILL)
    strike.pause()
    strike.cluster.restart_slurmctld()
    return True


def cancel(strike: Strike) -> bool:
    """Cancels the job."""
    strike.sweep.look()
    return subprocess.run(["scancel", strike.sweep.job_id], check=False).returncode == 0


def warn(strike: Strike) -> bool:
    """Warns the batch script of the time limit, as Slurm does."""
    strike.sweep.look()
    return subprocess.run(["scancel", "--batch", "--signal=USR2", strike.sweep.job_id], check=False).returncode == 0


def requeue(strike: Strike) -> bool:
    """Has the job run again, as after a preemption."""
    strike.sweep.look()
    return subprocess.run(["scontrol", "requeue", strike.sweep.job_id], check=False).returncode == 0


def take_node_down(strike: Strike) -> bool:
    """Declares the node down, and up again."""
    node = node_of(strike.sweep.job_id)
    if not node:
        return False
    strike.sweep.look()
    scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=drill")
    strike.pause()
    scontrol("update", f"NodeName={node}", "State=RESUME")
    return True


def cut_node_off(strike: Strike) -> bool:
    """Stops the node's slurmd until the job runs on the other node, then lets it go on: two runs live meanwhile."""
    node = node_of(strike.sweep.job_id)
    if not node:
        return False
    strike.sweep.look()
    slurmd = strike.cluster.pid(f"slurmd.{node}")
    os.kill(slurmd, signal.SIGSTOP)
    try:
        scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=drill")  # as Slurm does when it does not answer
        if _wait_for_state(strike.sweep, "PENDING"):
            time.sleep(REST_S)
            scontrol("update", f"JobId={strike.sweep.job_id}", "StartTime=now")
            _wait_for_state(strike.sweep, "RUNNING")
            end = time.monotonic() + strike.random.uniform(1.0, 8.0)
            while time.monotonic() < end:
                strike.sweep.look()
                time.sleep(0.1)
    finally:
        os.kill(slurmd, signal.SIGCONT)
        scontrol("update", f"NodeName={node}", "State=RESUME")
    return True


def _wait_for_state(sweep: Sweep, state: str) -> bool:
    deadline = time.monotonic() + LOST_NODE_S
    while time.monotonic() < deadline:
        if sweep.queue_state()[0] == state:
            return True
        sweep.look()
        time.sleep(0.2)
    return False


def submit_twice(strike: Strike) -> bool:
    """Types the command twice at the same moment while the job lives."""
    living = len(strike.sweep.job_ids)
    commands = [strike.sweep.start_command(), strike.sweep.start_command()]
    statuses = [strike.sweep.end_command(command) for command in commands]
    return statuses == [0, 0] and len(strike.sweep.job_ids) <= living + 1


def fill_disk(strike: Strike) -> bool:
    """Fills the file system of the output folder until the job has ended, then makes room."""
    filler = strike.sweep.out_dir / ".filler"
    strike.sweep.look()
    try:
        while not strike.sweep.has_ended():
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass
            time.sleep(0.2)
    finally:
        filler.unlink(missing_ok=True)
    return True


def signal_step(strike: Strike) -> bool:
    """Sends SIGTERM or SIGUSR2 to every process of the step while rows are being scored."""
    deadline = time.monotonic() + LOST_NODE_S
    while not strike.sweep.pids("scorer"):
        if strike.sweep.has_ended() or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    time.sleep(strike.random.uniform(0.0, 2.0))
    if strike.sweep.is_completed():
        return False
    strike.sweep.look()
    signum = strike.random.choice((signal.SIGTERM, signal.SIGUSR2))
    for pid in step_processes(strike.sweep):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
    return True


def step_processes(sweep: Sweep) -> list[int]:
    """Returns every process of the job's step: those below its slurmstepd, and those that have left it."""
    of_batch = {*sweep.pids("batch"), *sweep.pids("srun")}
    found = set(sweep.processes()) - of_batch
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith(f"slurmstepd: [{sweep.job_id}.") and not title.startswith(
            f"slurmstepd: [{sweep.job_id}.batch"
        ):
            with contextlib.suppress(psutil.Error):
                found |= {child.pid for child in process.children(recursive=True)}
    return sorted(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of drill."""

    strike: Callable[[Strike], bool]
    """Returns False if it did not hit a living job."""
    says: str
    alone: bool = False
    """True if it hits the whole cluster, so that no other drill may run beside it."""
    by_hand: bool = False
    """True if the same command is to be typed afterwards: a person has ended the job, or must make room."""
    small_disk: bool = False
    """True if the output folder has a small file system of its own."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks instead of the usual ones."""
    scale: int = 1
    """How many times as many samples as usual."""


def _killing(program: str) -> Callable[[Strike], bool]:
    return lambda strike: strike.kill(program)


KINDS: Mapping[str, Kind] = {
    "worker": Kind(strike=_killing("worker"), says="SIGKILL to the worker"),
    "raylet": Kind(strike=_killing("raylet"), says="SIGKILL to Ray's raylet"),
    "gcs": Kind(strike=_killing("gcs"), says="SIGKILL to Ray's GCS"),
    "balancer": Kind(strike=_killing("balancer"), says="SIGKILL to the balancer"),
    "job": Kind(strike=_killing("job"), says="SIGKILL to the job's Python"),
    "srun": Kind(strike=_killing("srun"), says="SIGKILL to srun"),
    "batch": Kind(strike=_killing("batch"), says="SIGKILL to the batch script"),
    "slurmd": Kind(strike=kill_slurmd, says="SIGKILL to the node's slurmd, started again", alone=True),
    "slurmctld": Kind(strike=kill_slurmctld, says="SIGKILL to slurmctld, started again", alone=True),
    "scancel": Kind(strike=cancel, says="scancel", by_hand=True),
    "time_limit": Kind(strike=warn, says="the warning before the time limit"),
    "requeue": Kind(strike=requeue, says="scontrol requeue, as in a preemption"),
    "node_down": Kind(strike=take_node_down, says="the node declared down, then up", alone=True),
    "cut_off": Kind(strike=cut_node_off, says="the node cut off, replaced, and back", alone=True, scale=3),
    "two_submissions": Kind(strike=submit_twice, says="the command typed twice at once during a run"),
    "full_disk": Kind(strike=fill_disk, says="no space in the output folder", by_hand=True, small_disk=True),
    "signal_step": Kind(
        strike=signal_step, says="SIGTERM or SIGUSR2 to every process of the step", benchmarks=("demo-code",), scale=2
    ),
}
"""Every kind of drill by its name."""


def unmount(folder: Path) -> None:
    """Unmounts a small file system."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
