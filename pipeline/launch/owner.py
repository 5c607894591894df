"""Who may write into a run folder: only the processes of one host, or the Slurm jobs, that `owner.json` names.

Every change happens under a file lock, so two commands never both own a folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from trimode.core.errors import ConfigError, WorkerError
from trimode.core.files import locked, write_json_atomic
from trimode.core.processes import ProcessId, process_id
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.slurm.queue import has_ended, job_states

DYING_S = 60.0
"""Seconds that a local job whose launcher was killed gets to stop by itself. Afterwards the folder is refused."""
POLL_S = 0.1
"""Seconds between two looks at such a job."""


class Life(StrEnum):
    """What is known of an owner."""

    RUNS = "runs"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """It cannot be asked from here: its host is another one, or squeue does not answer."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One command's claim on a run folder."""

    token: str
    """Identifies the claim."""
    host: str
    processes: tuple[ProcessId, ...] = ()
    """The launcher, then its jobs."""
    slurm_jobs: tuple[str, ...] = ()
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    def describe(self) -> str:
        """Returns the Slurm jobs or processes, for messages."""
        if self.slurm_jobs:
            return f"Slurm job {', '.join(self.slurm_jobs)}"
        if not self.processes:
            return "an owner whose owner.json is damaged"
        return f"process {', '.join(str(process.pid) for process in self.processes)} on {self.host}"

    def life(self, states: Mapping[str, str] | None = None) -> Life:
        """Returns what is known of its jobs or processes: while one of them runs it may write.

        `states`: what squeue has said of Slurm jobs; None = squeue is asked here.
        """
        if self.slurm_jobs:
            try:
                states = job_states(self.slurm_jobs) if states is None else states
            except WorkerError:
                return Life.UNKNOWN
            runs = not all(has_ended(states.get(job_id)) for job_id in self.slurm_jobs)
        elif not self.processes or self.host != socket.gethostname():
            return Life.UNKNOWN
        else:
            runs = any(process.alive() for process in self.processes)
        return Life.RUNS if runs else Life.ENDED

    def dying(self) -> bool:
        """True if its launcher on this host has ended, so that its job is about to stop."""
        here = self.host == socket.gethostname() and not self.slurm_jobs
        return here and bool(self.processes) and not self.processes[0].alive()


def this_process() -> Owner:
    """Returns a claim of this process."""
    me = process_id(os.getpid())
    assert me is not None
    return Owner(token=uuid.uuid4().hex, host=socket.gethostname(), processes=(me,))


def claim(run_dir: Path, owner: Owner, take_over: bool = False, states: Mapping[str, str] | None = None) -> None:
    """Makes `owner` the folder's owner. Raises ConfigError while a process or job of another owner runs.

    An owner that cannot be asked counts as running, unless `take_over` says that it is gone. `states`: what squeue has
    said of the Slurm jobs of all owners; None = it is asked here.
    """
    deadline = time.monotonic() + DYING_S
    while True:
        with _locked(run_dir):
            other = read_owner(run_dir)
            life = Life.ENDED if other is None or other.token == owner.token else other.life(states)
            if life is Life.ENDED or (take_over and life is Life.UNKNOWN):
                if other is not None and life is Life.UNKNOWN:
                    print(f"taking over {run_dir}: {evidence(run_dir, other)}", file=sys.stderr, flush=True)
                _write(run_dir, owner)
                return
        assert other is not None
        if not other.dying() or time.monotonic() > deadline:
            if life is Life.UNKNOWN:
                way = f"{evidence(run_dir, other)}; if it is gone, --take-over (take_over=true) takes the folder"
            else:
                way = f"it belongs to {other.describe()} since {other.since}, which runs"
            raise ConfigError(
                f"a run folder has one owner: {run_dir}: {way}; "
                "else wait for it, end it, or use --fresh for a folder beside it"
            )
        time.sleep(POLL_S)


def evidence(run_dir: Path, owner: Owner) -> str:
    """Returns what can be seen of an owner that cannot be asked: who it is, why not, and when it last wrote."""
    if owner.slurm_jobs:
        why = "squeue does not answer here"
    elif owner.processes:
        why = f"this host is {socket.gethostname()}, which cannot see its processes"
    else:
        why = "nobody can be asked"
    return f"it belongs to {owner.describe()} since {owner.since or 'an unknown time'}; {why}; {last_written(run_dir)}"


def last_written(run_dir: Path) -> str:
    """Returns which file of a run folder was written last, and how long ago."""
    newest, name = 0.0, ""
    for folder, _, names in os.walk(run_dir):
        for path in (Path(folder) / name for name in names if not name.startswith((".", "owner.json"))):
            with contextlib.suppress(OSError):
                newest, name = max((newest, name), (path.stat().st_mtime, str(path.relative_to(run_dir))))
    if not name:
        return "the folder holds no other file"
    age = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(newest))
    return f"the last file written there is {name}, {max(0.0, time.time() - newest) / 60:.0f} min ago ({age})"


def join(run_dir: Path, token: str) -> None:
    """Adds this job (a Slurm job or a process) to the claim it belongs to.

    Raises WorkerError if the folder has another owner by now.
    """
    me = this_process()
    with _locked(run_dir):
        owner = read_owner(run_dir)
        if owner is None or owner.token != token:
            raise WorkerError(f"{run_dir} was taken over by {owner.describe() if owner else 'nobody'}")
        if (slurm_job := current_slurm_job()) is not None:
            _write(run_dir, dataclasses.replace(owner, slurm_jobs=tuple({*owner.slurm_jobs, slurm_job})))
        elif me.processes[0] not in owner.processes:
            _write(run_dir, dataclasses.replace(owner, processes=(owner.processes[0], *me.processes)))


def current_slurm_job() -> str | None:
    """Returns the id of the Slurm job this process runs in, `123` or `123_4`; None outside of one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def hand_over(run_dir: Path, token: str, slurm_jobs: tuple[str, ...]) -> None:
    """Hands a claim over from the submitting process to the Slurm jobs it has started, beside those that it has."""
    with _locked(run_dir):
        owner = read_owner(run_dir)
        if owner is not None and owner.token == token:
            _write(run_dir, dataclasses.replace(owner, slurm_jobs=(*owner.slurm_jobs, *slurm_jobs)))


def release(run_dir: Path, token: str) -> None:
    """Ends a claim of this process. A claim of another owner, or one of Slurm jobs, stays."""
    with _locked(run_dir):
        owner = read_owner(run_dir)
        if owner is not None and owner.token == token and not owner.slurm_jobs:
            RunPaths(run_dir).owner.unlink()


def run_folder_of(folder: Path) -> Path | None:
    """Returns the run folder that a folder of outputs lies in; None outside of one."""
    for above in (folder, *folder.parents):
        paths = RunPaths(above)
        if any(path.is_file() for path in (paths.owner, paths.manifest, paths.plan)):
            return above
    return None


@contextmanager
def owning(run_dir: Path | None, take_over: bool) -> Iterator[None]:
    """Owns a run folder while the block runs. Raises ConfigError while a job of another owner runs there."""
    if run_dir is None:
        yield
        return
    owner = this_process()
    claim(run_dir, owner, take_over)
    try:
        yield
    finally:
        release(run_dir, owner.token)


def read_owner(run_dir: Path) -> Owner | None:
    """Returns the folder's claim; None if there is none. A damaged one is an owner without processes and jobs."""
    try:
        raw = json.loads(RunPaths(run_dir).owner.read_text(encoding="utf-8"))
        return Owner(
            token=str(raw["token"]),
            host=str(raw["host"]),
            processes=tuple(ProcessId(**item) for item in raw["processes"]),
            slurm_jobs=tuple(map(str, raw["slurm_jobs"])),
            since=str(raw["since"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return Owner(token="", host="", since="")


def _write(run_dir: Path, owner: Owner) -> None:
    write_json_atomic(RunPaths(run_dir).owner, dataclasses.asdict(owner))


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    with locked(RunPaths(run_dir).owner.with_name(".owner.lock"), keep=False):
        yield
