"""The jobs of one submitted array, kept together in one folder of the out-dir until all of them have ended.

One file for all jobs of an array, and none per run folder, keeps large sweeps small on a shared file system. A run
folder's own plan.json, where there is one, comes before what is read here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trimode.core.files import write_json_atomic, write_text_atomic
from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec

FOLDER = ".submitit"
"""Folder of the out-dir with a folder per array."""
CALLS, ACCEPTED = "calls.jsonl", "accepted.json"
JOB_ID = "slurm_job_id"
"""Key of an entry of plan.json: the Slurm job that was submitted for it."""
COMMAND = "command"
"""Key of an entry of plan.json: what was typed to run the job, and goes on with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one job of an array runs."""

    spec: JobSpec
    token: str
    """Claim on the run folder that the job belongs to."""
    function: str
    """`module:name` of a function that takes the spec."""


@dataclass(frozen=True, slots=True)
class Submission:
    """An array, or a single job, that Slurm has accepted."""

    folder: Path
    job_id: str
    count: int
    cluster: str
    """Name of the cluster; empty if unknown."""
    follow_ups: tuple[str, ...] = ()
    """Ids of the arrays that wait to go on with the same calls, in order (a chain)."""
    command: str = ""
    """What was typed to submit it; empty if unknown."""

    @property
    def runs(self) -> list[tuple[str, ...]]:
        """Ids of each call's job, and of the jobs that wait to go on with it."""
        arrays = (self.job_id, *self.follow_ups)
        if self.count == 1:
            return [arrays]
        return [tuple(f"{array}_{number}" for array in arrays) for number in range(self.count)]

    @property
    def job_ids(self) -> list[str]:
        """Ids of all its jobs."""
        return [job_id for ids in self.runs for job_id in ids]


def out_dir_of(run_dir: Path) -> Path:
    """Returns the out-dir of a run folder, <out_dir>/<exp_name>/hf_base/<eval_dir_name>."""
    return run_dir.parent.parent.parent


def write_calls(folder: Path, calls: Sequence[Call]) -> None:
    """Writes what the jobs of an array run, before it is submitted."""
    lines = (json.dumps(dataclasses.asdict(call), ensure_ascii=True) for call in calls)
    (folder / ACCEPTED).unlink(missing_ok=True)
    write_text_atomic(folder / CALLS, "".join(f"{line}\n" for line in lines))


def read_call(folder: Path, number: int) -> Call:
    """Returns what job `number` of an array runs. Raises OSError, IndexError or ValueError if it cannot be read."""
    raw = json.loads((folder / CALLS).read_text(encoding="utf-8").splitlines()[number])
    spec = job_from_json(raw["spec"])
    if spec is None:
        raise ValueError(f"{folder / CALLS} is of another release: line {number + 1} lacks fields of a job")
    return Call(spec=spec, token=raw["token"], function=raw["function"])


def accepted(submission: Submission) -> None:
    """Records the id that Slurm has given to an array."""
    facts = {"job_id": submission.job_id, "count": submission.count, "cluster": submission.cluster}
    facts |= {"follow_ups": list(submission.follow_ups), COMMAND: submission.command}
    write_json_atomic(submission.folder / ACCEPTED, facts)


def submissions(out_dir: Path) -> list[Submission]:
    """Returns the arrays whose calls are still kept. Damaged ones are left out."""
    found = []
    for path in sorted((out_dir / FOLDER).glob(f"*/{ACCEPTED}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            raw = json.loads(path.read_text(encoding="utf-8"))
            follow_ups = tuple(map(str, raw.get("follow_ups", ())))
            facts = str(raw["job_id"]), int(raw["count"]), str(raw["cluster"]), follow_ups, str(raw.get(COMMAND, ""))
            found.append(Submission(path.parent, *facts))
    return found


@lru_cache(maxsize=256)
def _entries(path: Path, _time_ns: int, _size: int) -> dict[str, list[tuple[int, str]]]:
    """Returns the lines of a file of calls by the name of the run folder, with their numbers."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        found.setdefault(_name(Path(json.loads(line)["spec"]["run_dir"])), []).append((number, line))
    return found


def _name(run_dir: Path) -> str:
    """Returns the path of a run folder in its out-dir, which has several paths: a relative one, those with links."""
    return "/".join(run_dir.parts[-3:])


def _rows(submission: Submission, run_dir: str | None = None) -> dict[str, list[dict[str, object]]]:
    """Returns a submission's jobs as entries of plan.json, by name of the run folder: of all folders, or of one."""
    path = submission.folder / CALLS
    try:
        status = path.stat()
        lines = _entries(path, status.st_mtime_ns, status.st_size)
        runs, typed = submission.runs, {COMMAND: submission.command} if submission.command else {}
        wanted = lines if run_dir is None else {run_dir: lines.get(run_dir, [])}
        return {
            name: [
                json.loads(line)["spec"] | typed | {JOB_ID: job_id}
                for number, line in numbered
                for job_id in runs[number]
            ]
            for name, numbered in wanted.items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}


def planned(run_dir: Path) -> dict[str, object]:
    """Returns the content of a folder's plan.json, or the same from the submissions of its out-dir where it has none.

    It is empty if there is neither. Raises ValueError if plan.json is damaged.
    """
    with suppress(FileNotFoundError):
        found = json.loads(RunPaths(run_dir).plan.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{RunPaths(run_dir).plan}: valid: an object")
        return found
    name = _name(run_dir)
    rows = [row for item in submissions(out_dir_of(run_dir)) for row in _rows(item, name).get(name, [])]
    return {"jobs": rows} if rows else {}


def forget(submission: Submission) -> None:
    """Removes the files of an array whose jobs have all ended. Logs stay, and so do the plans, in the run folders."""
    for name, rows in _rows(submission).items():
        run_dir = submission.folder.parent.parent / name
        path = RunPaths(run_dir).plan
        if run_dir.is_dir() and not path.exists():
            write_json_atomic(path, {"jobs": rows})
    remove_files(submission.folder)


def remove_files(folder: Path) -> None:
    """Removes pickles, scripts and calls from a folder of submitit; logs stay. An empty folder is removed as well."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in (".pkl", ".sh") or path.name in (CALLS, ACCEPTED):
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        folder.rmdir()
