"""Small sweeps for the tests of planning and submission, and stand-ins for what a job does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from trimode.core.files import write_json_atomic, write_text_atomic
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.schema import Config
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.survey import survey
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec

HERE = "trimode.tests.fakes.sweeps"


def config_of(*overrides: str) -> Config:
    config = compose(overrides)
    check(config)
    return config


def jobs_of(cwd: Path, *overrides: str) -> tuple[JobSpec, ...]:
    config = config_of(*overrides)
    return plan(config, survey(config, cwd))


def local_jobs(cwd: Path, *overrides: str) -> tuple[JobSpec, ...]:
    """Jobs of a made-up model on this machine; results lie in `cwd`/out."""
    (cwd / "model").mkdir(exist_ok=True)
    return jobs_of(cwd, "model.path=./model", "cluster=local", "suite=demo", "out_dir=out", *overrides)


def finish(spec: JobSpec) -> None:
    """What a job leaves that has run to its end."""
    paths = RunPaths(Path(spec.run_dir))
    for task in spec.tasks:
        for seed in task.seeds:
            rows = "".join(json.dumps({"generation": "x"}) + "\n" for _ in range(task.num_requests // task.repeats))
            write_text_atomic(paths.output(task.benchmark, seed), rows)
        write_json_atomic(paths.metrics(task.benchmark), {})
    write_text_atomic(paths.completed(spec.index), "now\n")


def run_to_the_end(spec: JobSpec) -> None:
    print(f"devices {os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}", flush=True)
    finish(spec)


def measure_briefly(spec: JobSpec) -> None:
    """A run of 0.125 s per sample of one benchmark, as its manifest records it."""
    paths = RunPaths(Path(spec.run_dir))
    samples = spec.tasks[0].num_requests
    tasks = {spec.tasks[0].benchmark: {"samples": samples, "worked_s": samples / 8}}
    measured = {"startup_s": 1.0, "serving_s": samples / 8, "finish_s": 1.0, "tasks": tasks}
    run = {"devices": ["cpu"], "max_num_seqs": spec.client.max_num_seqs, "measured": measured, "start": ""}
    job = {"config": {"model": {"path": spec.model.path}}, "runs": [run]}
    write_json_atomic(paths.manifest, {"identity": spec.identity, "jobs": {str(spec.index): job}})
    finish(spec)


def fail(spec: JobSpec) -> None:
    write_text_atomic(RunPaths(Path(spec.run_dir)).failed(spec.index), "now\nCause: the dog ate it\n")
    raise RuntimeError("the dog ate it")


def vanish(spec: JobSpec) -> None:
    print(f"last words of {spec.name}", flush=True)
    os._exit(3)


def fail_in_ar(spec: JobSpec) -> None:
    (fail if spec.name == "ar" else run_to_the_end)(spec)


def hang(spec: JobSpec) -> None:
    """Ends by signals, as a job does, but never by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (Path(spec.run_dir) / "hanging").write_text(str(os.getpid()), encoding="utf-8")
    while True:
        time.sleep(0.1)
