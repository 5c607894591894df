"""manifest.json of a run folder: what ran, on what, with which weights, prompts and data.

Refuses to add results of other weights, prompts or data to a folder.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from trimode.core.errors import ConfigError, Stopped
from trimode.core.files import locked, write_json_atomic
from trimode.core.worker import WorkerInfo
from trimode.pipeline.run_folder.earlier_runs import job_name, restart_count
from trimode.pipeline.run_folder.lock import lock_differences, lock_sha256
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import git_commit, now, versions
from trimode.pipeline.run_folder.rows import read_manifest
from trimode.pipeline.spec import JobSpec

SLURM_JOB = "slurm_job"
"""Key of a run: the id by which squeue shows its job. `slurm_job_id` differs from it in an array."""


class Manifest:
    """The entries of one job in the manifest its run folder shares with the other jobs."""

    def __init__(self, spec: JobSpec, paths: RunPaths) -> None:
        self._spec = spec
        self._paths = paths

    def open(self, prompts: Mapping[str, str], data: Mapping[str, Mapping[str, object]]) -> None:
        """Adds this run of the job. Raises ConfigError if the folder's results came from other prompts or data.

        A run records its own code and versions, so that a resume with other code hides nothing of what ran before.
        `prompts`: benchmark -> sha256; `data`: benchmark -> {"sha256", "num_rows"}.
        """
        self.pin({"prompts": dict(prompts), "data": {name: dict(facts) for name, facts in data.items()}})
        run: dict[str, object] = {"start": now(), "end": None, "status": "running", "host": socket.gethostname()}
        run |= {"pid": os.getpid(), "slurm_job_id": os.environ.get("SLURM_JOB_ID")}
        run[SLURM_JOB] = job_name() or None
        run["max_num_seqs"] = self._spec.client.max_num_seqs
        run["restart_count"] = restart_count()
        code = {"git_commit": git_commit(), "versions": versions(), "lock_sha256": lock_sha256()}
        with self._edit() as manifest:
            manifest["exp_name"] = self._spec.exp_name
            manifest["identity"] = self._spec.identity
            job = self._job(manifest)
            runs = _list(job, "runs")
            for earlier in runs:
                for name in code.keys() & job.keys() - earlier.keys():  # of releases that kept only the last run's
                    earlier[name] = job[name]
                if earlier.get("status") == "running":  # it was killed: only one run of a job writes at a time
                    earlier["status"] = "lost"
                _note_preemption(earlier, run)
            runs.append(run | code)
            job.update(
                config=asdict(self._spec),
                lock_differences=lock_differences(),
                host=socket.gethostname(),
                platform=platform.platform(),
                **code,
            )

    def add_workers(self, workers: Sequence[WorkerInfo]) -> None:
        """Records what the workers loaded. Raises ConfigError if the folder's results came from other weights."""
        first = workers[0]
        self.pin({"weights_sha256": first.weights_sha256, "lora_sha256": first.lora_sha256})
        with self._edit() as manifest:
            self._job(manifest)["devices"] = [worker.device for worker in workers]
            self._job(manifest).update(
                dtype=first.dtype,
                quantization=first.quantization,
                quantized=list(first.quantized),
                weight_bytes=first.weight_bytes,
                batch_invariant=first.batch_invariant,
            )
            self._job(manifest)["worker_versions"] = dict(first.versions)
            if runs := _list(self._job(manifest), "runs"):
                runs[-1]["worker_versions"] = dict(first.versions)
                runs[-1]["devices"] = [worker.device for worker in workers]

    def add_server(self, facts: Mapping[str, object]) -> None:
        """Records the running server that answers. Raises ConfigError if another model gave the folder's results."""
        self.pin({"server_model": facts["model"]})
        with self._edit() as manifest:
            self._job(manifest)["server"] = dict(facts)
            if runs := _list(self._job(manifest), "runs"):
                runs[-1]["server"] = dict(facts)

    def add_lost(self, lost: Mapping[str, int]) -> None:
        """Records how many workers of this run were lost at some time, by the node that they were lost with."""
        with self._edit() as manifest:
            if runs := _list(self._job(manifest), "runs"):
                earlier = runs[-1].get("lost_workers")
                runs[-1]["lost_workers"] = {**(earlier if isinstance(earlier, dict) else {}), **lost}

    def pin(self, facts: Mapping[str, object]) -> None:
        """Compares pinned entries with the recorded ones, then records them.

        Raises ConfigError naming each difference.
        """
        with self._edit() as manifest:
            changes = [line for name, value in facts.items() for line in _differences(name, manifest.get(name), value)]
            if changes:
                raise ConfigError(
                    f"{self._paths.run_dir} holds results of something else: {'; '.join(changes)}; "
                    "valid: the same weights, prompts and data, or a new folder (--fresh)"
                )
            for name, value in facts.items():
                earlier = manifest.get(name)
                manifest[name] = earlier | value if isinstance(earlier, dict) and isinstance(value, dict) else value

    def close(
        self,
        status: str,
        *,
        new_samples: int,
        cause: str | None = None,
        measured: Mapping[str, object] | None = None,
    ) -> None:
        """Notes how this run of the job ended: completed | interrupted (by a signal) | failed.

        Args:
            status: one of these.
            new_samples: samples that this run finished.
            cause: why it did not complete.
            measured: times of this run (`client.recorded.measured`); None if it asked no sample.
        """
        with self._edit() as manifest:
            runs = _list(self._job(manifest), "runs")
            if runs:
                end = {"end": now(), "status": status, "new_samples": new_samples, "cause": cause}
                runs[-1] = {**runs[-1], **end, "measured": None if measured is None else dict(measured)}

    def _job(self, manifest: dict[str, object]) -> dict[str, object]:
        jobs = manifest.setdefault("jobs", {})
        assert isinstance(jobs, dict)
        job = jobs.setdefault(str(self._spec.index), {})
        assert isinstance(job, dict)
        return job

    @contextmanager
    def _edit(self) -> Iterator[dict[str, object]]:
        """Reads the file, yields it and writes it back under a lock. An error leaves the file as it was."""
        path = self._paths.manifest
        with locked(path.with_name(".manifest.lock")):
            manifest = read_manifest(path)
            yield manifest
            write_json_atomic(path, manifest)


def _note_preemption(earlier: dict[str, object], run: Mapping[str, object]) -> None:
    """Names the cause of a run that SIGTERM has ended, if Slurm has run the same job again: it was not cancelled."""
    same_job = earlier.get("slurm_job_id") is not None and earlier.get("slurm_job_id") == run["slurm_job_id"]
    if same_job and str(earlier.get("cause")) == str(Stopped(signal.SIGTERM)):
        earlier["cause"] = f"preempted: {earlier['cause']}, and Slurm has run it again"


def runs_of(spec: JobSpec, paths: RunPaths) -> list[dict[str, object]]:
    """Returns the recorded runs of a job, oldest first; none if the manifest does not name it."""
    jobs = read_manifest(paths.manifest).get("jobs")
    job = jobs.get(str(spec.index)) if isinstance(jobs, dict) else None
    runs = job.get("runs") if isinstance(job, dict) else None
    return runs if isinstance(runs, list) else []


def _differences(name: str, earlier: object, value: object) -> list[str]:
    """Returns one line per value that differs from the recorded one. A value that one side lacks does not differ."""
    if earlier is None or value is None:
        return []
    if isinstance(earlier, dict) and isinstance(value, dict):
        return [line for key in value for line in _differences(f"{name}.{key}", earlier.get(key), value[key])]
    return [] if earlier == value else [f"{name} was {earlier} and is {value}"]


def _list(job: dict[str, object], name: str) -> list[dict[str, object]]:
    value = job.setdefault(name, [])
    assert isinstance(value, list)
    return value
