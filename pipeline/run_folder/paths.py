"""Every file name of a run folder, in one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """File names under one run folder `<out_dir>/<exp_name>/hf_base/<eval_dir_name>`; the reference's names."""

    run_dir: Path

    def pipeline_log(self, group: int) -> Path:
        """Everything job `group` printed, appended over resumes."""
        return self.run_dir / f"pipeline_group{group}.log"

    def server_info(self, group: int) -> Path:
        """KEY=value lines on the server of a job; mode 0600."""
        return self.run_dir / f"server_info_group{group}.env"

    def completed(self, group: int) -> Path:
        """Marker: every task of the job has its metrics."""
        return self.run_dir / f"COMPLETED_group{group}"

    def failed(self, group: int) -> Path:
        """Marker: why the job ended early, with the log's tail."""
        return self.run_dir / f"FAILED_group{group}"

    def nfe_log(self, group: int) -> Path:
        """One line per scored sample of the job."""
        return self.run_dir / f"nfe_group{group}" / "nfe_log.jsonl"

    def progress(self, group: int) -> Path:
        """Counts of a running job, from which other processes draw its progress."""
        return self.run_dir / f"nfe_group{group}" / "progress.json"

    def request_log(self, group: int) -> Path:
        """The balancer's log of its replies. Written for the NeMo-Skills client, which drops the cost in a reply."""
        return self.run_dir / f"nfe_group{group}" / "request_log.jsonl"

    @property
    def manifest(self) -> Path:
        """What ran: resolved config, versions, hashes, devices."""
        return self.run_dir / "manifest.json"

    @property
    def plan(self) -> Path:
        """The jobs of the last submission into this folder."""
        return self.run_dir / "plan.json"

    def lease(self, group: int) -> Path:
        """Names the run of job `group` that may write: the one that started last."""
        return self.run_dir / f"lease_group{group}.json"

    @property
    def owner(self) -> Path:
        """Names the process or Slurm job that may write here now."""
        return self.run_dir / "owner.json"

    @property
    def results(self) -> Path:
        """The NeMo-Skills output folder."""
        return self.run_dir / "results"

    @property
    def eval_results(self) -> Path:
        """One folder per benchmark."""
        return self.results / "eval-results"

    def task_dir(self, benchmark: str) -> Path:
        """Outputs of one benchmark."""
        return self.eval_results / benchmark

    def output(self, benchmark: str, seed: int) -> Path:
        """Finished, ordered, scored rows of one seed."""
        return self.task_dir(benchmark) / f"output-rs{seed}.jsonl"

    def output_async(self, benchmark: str, seed: int, chunk: int | None = None) -> Path:
        """Rows in order of arrival while a seed, or a job's chunk of it, runs (the `-async` file of NeMo-Skills)."""
        return self.task_dir(benchmark) / f"{_stem(seed, chunk)}.jsonl-async"

    def outputs_async(self, benchmark: str, seed: int) -> list[Path]:
        """The -async files of a seed: the one without chunks, which may be missing, then those of chunks."""
        chunks = sorted(self.task_dir(benchmark).glob(f"output-rs{seed}_part_*.jsonl-async"))
        return [self.output_async(benchmark, seed), *chunks]

    def output_done(self, benchmark: str, seed: int, chunk: int | None = None) -> Path:
        """Marker beside a finished seed, or a job's finished chunk of it."""
        return self.task_dir(benchmark) / f"{_stem(seed, chunk)}.jsonl.done"

    def merge_lock(self, benchmark: str) -> Path:
        """Locked while a job that shares the benchmark begins its chunk, merges all chunks or writes metrics."""
        return self.task_dir(benchmark) / ".chunks.lock"

    def metrics(self, benchmark: str) -> Path:
        """NeMo-Skills' metrics plus ours."""
        return self.task_dir(benchmark) / "metrics.json"

    def balancer_log(self, group: int) -> Path:
        """What the balancer printed."""
        return self.results / "worker_logs" / f"group{group}_load_balancer.log"

    def balancer_ready(self, group: int, attempt: str) -> Path:
        """Where the balancer of one run of a job says that it serves."""
        return self.results / "worker_logs" / f"group{group}_{attempt}.ready.json"

    @property
    def journal(self) -> Path:
        """Where workers write down their running requests. The files of job N begin with `group<N>_`."""
        return self.run_dir / "journal"

    def journals(self, group: int) -> list[Path]:
        """The files that the workers of job `group` have written there."""
        return list(self.journal.glob(f"group{group}_*"))

    def balancers_ready(self, group: int) -> list[Path]:
        """The ready files that runs of a job have left."""
        return sorted(self.balancer_log(group).parent.glob(f"group{group}_*.ready.json"))

    def submitit_dir(self, group: int) -> Path:
        """submitit's own pickles and logs."""
        return self.run_dir / ".submitit" / f"group{group}"


def _stem(seed: int, chunk: int | None) -> str:
    """Returns the name without ending. Not `_chunk_N` as in NeMo-Skills, whose positions count within the chunk."""
    return f"output-rs{seed}" if chunk is None else f"output-rs{seed}_part_{chunk}"
