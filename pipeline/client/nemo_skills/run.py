"""The client that drives an installed NeMo-Skills: its own prompts, requests, resume, evaluators and metrics.

It uses the balancer's address and the command line and files of NeMo-Skills, and patches nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from trimode.core.errors import WorkerError
from trimode.core.files import tail
from trimode.core.processes import serve_job
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.client.answer import mode_fields
from trimode.pipeline.client.nemo_skills.files import (
    dataset_override,
    finish_nfe,
    reopen_seed,
    rows_done,
    write_dataset,
)
from trimode.pipeline.client.nemo_skills.installation import Installation, _environment, find_installation
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import DecodeSpec, JobSpec, TaskSpec

MARK = "TRIMODE_NEMO_SKILLS_RUN"
"""Environment variable that marks every process of a run: its launchers detach their children from the group."""
API_KEY = "TRIMODE_SERVER_KEY"
"""Environment variable in which its processes find the balancer's bearer key."""
REPORT_EVERY_S = 30.0
POLL_S = 0.5
STOP_S = 10.0


def run_task(spec: JobSpec, task: TaskSpec, server: tuple[str, str], paths: RunPaths) -> None:
    """Runs one benchmark to its metrics.json; rows that NeMo-Skills finished earlier are kept.

    `server`: address and bearer key of the balancer. The key goes through the environment of the processes, never
    through a command line. Raises ConfigError if it cannot run at all, WorkerError if it left less than was asked.
    """
    installation = find_installation()
    if installation.is_newer:
        print(
            f"NeMo-Skills {installation.version} is newer than 0.7.0, which this client was tested with: it relies on "
            "flat extra_body fields of server type vllm, --data_dir packages and output-rsN.jsonl(-async, .done)",
            flush=True,
        )
    url, api_key = server
    run = _Run(spec, task, paths, installation)
    run.prepare(api_key)
    served = _served_model(url, api_key)
    for seeds in run.batches():
        run.execute(run.eval_command(seeds, url, served), f"seeds {seeds[0]} to {seeds[-1]}")
    run.execute(run.summarize_command(), "metrics")
    finish_nfe(spec, task, paths, run.rows_asked)


def overrides(decode: DecodeSpec, max_concurrent_requests: int, timeout_s: float) -> list[str]:
    """Hydra overrides of NeMo-Skills' generate: sampling, and the mode's fields as flat scalars."""
    extra = {**mode_fields(decode), "enable_thinking": decode.enable_thinking}
    extra |= {"separate_reasoning": False} if decode.enable_thinking else {}
    return [
        f"++inference.temperature={decode.temperature}",
        f"++inference.top_p={decode.top_p}",
        f"++inference.tokens_to_generate={decode.max_new_tokens}",
        f"++inference.timeout={round(timeout_s)}",
        f"++max_concurrent_requests={max_concurrent_requests}",
        *(f"++inference.extra_body.{name}={json.dumps(value)}" for name, value in extra.items()),
    ]


class _Run:
    """One benchmark of a job: its working folder, commands and processes."""

    def __init__(self, spec: JobSpec, task: TaskSpec, paths: RunPaths, installation: Installation) -> None:
        self.spec = spec
        self.task = task
        self.paths = paths
        self.installation = installation
        self.folder = paths.results / "nemo_skills" / task.benchmark
        self.log = self.folder / "client.log"
        self.rows_asked = 0
        self._data_dir = Path(spec.data_dir) if spec.data_dir else None
        self._variables: dict[str, str] = {}

    def prepare(self, api_key: str) -> None:
        """Ends processes that an earlier, killed run left, writes the data, and reopens outputs with too few rows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _end_all(self._mark)
        benchmark = load_benchmark(self.task.benchmark)
        folders = (self.installation.package, self.folder / "data")
        self.rows_asked = write_dataset(benchmark, self._data_dir, self.task.limit, folders)
        self._variables = {
            MARK: self._mark,
            API_KEY: api_key,
            "NEMORUN_HOME": str(self.folder / "nemorun"),
            **dataset_override(benchmark, self._data_dir, self.rows_asked, self.folder),
        }
        for seed in self.task.seeds:
            reopen_seed(self.paths, self.task.benchmark, seed, self.rows_asked)

    def batches(self) -> Iterator[tuple[int, ...]]:
        """Yields groups of seeds, at most one seed per core: each seed is a process of its own."""
        size = max(1, len(os.sched_getaffinity(0)))
        for start in range(0, len(self.task.seeds), size):
            yield self.task.seeds[start : start + size]

    def eval_command(self, seeds: Sequence[int], url: str, model: str) -> list[str]:
        """NeMo-Skills' eval over consecutive seeds."""
        client = self.spec.client
        tests = self._livecodebench_tests()
        return [
            *(self.installation.python, "-m", "nemo_skills.pipeline.eval", "eval"),
            f"--output_dir={self.paths.results}",
            f"--data_dir={self.folder / 'data'}",
            f"--benchmarks={self.task.benchmark}:{len(seeds)}",
            f"--starting_seed={seeds[0]}",
            "--server_type=vllm",
            f"--server_address={url.rstrip('/')}/v1",
            f"--model={model}",
            f"++server.api_key_env_var={API_KEY}",
            f"--log_dir={self.folder / 'logs'}",
            "--no-auto_summarize_results",
            *overrides(
                self.spec.decode, max(1, client.max_concurrent_requests // len(seeds)), client.request_timeout_s
            ),
            *([f"++eval_config.test_file={tests}"] if tests else []),
        ]

    def summarize_command(self) -> list[str]:
        """NeMo-Skills' metrics over all seeds."""
        return [
            *(self.installation.python, "-m", "nemo_skills.pipeline.summarize_results"),
            str(self.paths.eval_results),
            f"--benchmarks={self.task.benchmark}",
            f"--save_metrics_path={self.paths.metrics(self.task.benchmark)}",
            f"--data_dir={self.folder / 'data'}",
        ]

    def execute(self, command: Sequence[str], what: str) -> None:
        """Runs one command and prints its progress. If it fails, raises WorkerError with the end of its log."""
        print(f"nemo_skills: {self.task.benchmark}: {what}", flush=True)
        with self.log.open("ab") as log:
            log.write(f"--- {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=_environment(self.installation.python, self._variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=serve_job,
            )
            try:
                self._wait(process)
            finally:
                _end_all(self._mark)
                process.wait()
        if process.returncode != 0:
            raise WorkerError(f"NeMo-Skills ended with status {process.returncode} ({self.log}):\n{tail(self.log, 15)}")

    @property
    def _mark(self) -> str:
        return str(self.folder)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        reported = time.monotonic()
        while process.poll() is None:
            time.sleep(POLL_S)
            if time.monotonic() - reported > REPORT_EVERY_S:
                reported = time.monotonic()
                done = sum(rows_done(self.paths, self.task.benchmark, seed) for seed in self.task.seeds)
                total = self.rows_asked * len(self.task.seeds)
                print(f"nemo_skills: {self.task.benchmark}: {done}/{total}", flush=True)

    def _livecodebench_tests(self) -> Path | None:
        tests = self.folder / "data" / "livecodebench" / "tests" / "tests.jsonl"
        return tests if self.task.benchmark == "livecodebench" and tests.is_file() else None


def _served_model(url: str, api_key: str) -> str:
    """Returns the model name for requests. Raises WorkerError if the balancer does not answer."""
    try:
        key = {"Authorization": f"Bearer {api_key}"}
        reply = httpx.get(f"{url.rstrip('/')}/v1/models", headers=key, timeout=60, trust_env=False).raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise WorkerError(f"{url}/v1/models: {type(error).__name__}: {error}") from error


def _end_all(mark: str) -> None:
    """Ends every process that carries `mark`: SIGTERM first, then SIGKILL."""
    for sig, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        deadline = time.monotonic() + patience_s
        if not (found := _marked(mark)):
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
        while _marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)


def _marked(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, a zombie, or another user's
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found
