"""Runs one command of Slurm with a time limit, and says how it ended: a cluster that is down must not hang a check."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

LIMIT_S = 15.0
"""Seconds that a command may take: a controller that is down is noticed after about four."""
NO_CLUSTER = ("establish a configuration source", "Unable to process configuration file")
"""What Slurm's commands say on a machine without slurm.conf."""
MISSING, SILENT = 127, 124
"""Exit statuses of a command that is not there, and of one that was stopped, as in a shell."""
KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER"})
"""Variables that name the cluster, not the job: `outside_of_jobs` keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a command said."""

    command: tuple[str, ...]
    status: int
    """Exit status; MISSING or SILENT without one."""
    out: str = ""
    err: str = ""

    @property
    def lacks_cluster(self) -> bool:
        """True if the command is not there, or finds no slurm.conf."""
        return self.status != 0 and (self.status == MISSING or any(words in self.err for words in NO_CLUSTER))

    @property
    def problem(self) -> str | None:
        """What went wrong, in one line; None if the command succeeded."""
        if self.status == 0:
            return None
        name = self.command[0]
        if self.status == MISSING and not self.err:
            return f"{name} is not on PATH"
        if self.status == SILENT and not self.err:
            return f"{name} gave no answer in time"
        if any(words in self.err for words in NO_CLUSTER):
            return f"{name} finds no cluster: there is no slurm.conf here"
        said = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        said = [line.removeprefix(f"{name}: ").removeprefix("error: ") for line in said]
        return "; ".join(dict.fromkeys(said)) or f"{name} ended with status {self.status}"


def ask(command: Sequence[str], limit_s: float = LIMIT_S, text: str = "") -> Reply:
    """Runs a command outside of any enclosing Slurm job, with `text` as its input. Never raises, never hangs."""
    words = tuple(command)
    try:
        with outside_of_jobs():
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
    except OSError as error:
        return Reply(command=words, status=MISSING, err="" if isinstance(error, FileNotFoundError) else str(error))
    with process:
        try:
            out, err = process.communicate(text, timeout=limit_s)
        except subprocess.TimeoutExpired:
            _kill_all(process)
            return Reply(command=words, status=SILENT)
    return Reply(command=words, status=process.returncode, out=out, err=err)


def _kill_all(process: subprocess.Popen[str]) -> None:
    """Kills a command with what it has started, which would keep its output open."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.communicate()


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hides the variables of an enclosing Slurm job while the block runs: they would override the script's lines."""
    taken = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name not in KEPT
    }
    try:
        yield
    finally:
        os.environ.update(taken)
