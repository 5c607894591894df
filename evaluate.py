"""Evaluates one mode on some tasks in this process: no server, no Slurm; the configs, plan, scoring and files of a job.

Knows no model and no scorer; the worker comes in at the end of the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# This file's folder holds `kernels` and others, names of packages that transformers imports: it must not be searched.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
try:
    import trimode  # noqa: F401 - is it installed?
except ImportError:
    sys.path.append(str(ROOT / ".types"))

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict

from trimode.core.errors import ConfigError, TrimodeError
from trimode.core.files import write_json_atomic
from trimode.core.protocol import WorkerSettings
from trimode.pipeline.client.samples import LoadedTask, load_tasks
from trimode.pipeline.config.schema import Config
from trimode.pipeline.data import convert_choices, convert_instructions, convert_math
from trimode.pipeline.data.hub import HubDataset
from trimode.pipeline.data.load import each
from trimode.pipeline.in_process.flags import Tasks, parse, plan_jobs
from trimode.pipeline.in_process.run import DirectWorker, TaskResult, print_result, print_summary, run_task
from trimode.pipeline.launch.owner import claim, release, this_process
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec

TASKS: Tasks = {
    "gsm8k": HubDataset(
        path="openai/gsm8k",
        config="main",
        split="test",
        convert=each(convert_math.gsm8k),
    ),
    "math-500": HubDataset(
        path="HuggingFaceH4/MATH-500",
        split="test",
        convert=each(convert_math.math_500),
    ),
    "mmlu-pro": HubDataset(
        path="TIGER-Lab/MMLU-Pro",
        split="test",
        convert=each(convert_choices.mmlu_pro),
    ),
    "gpqa": HubDataset(
        path="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        convert=convert_choices.gpqa,
    ),
    "ifeval": HubDataset(
        path="google/IFEval",
        split="train",
        convert=each(convert_instructions.ifeval),
    ),
    "mmlu": None,
    "aime24": None,
    "aime25": None,
    "human-eval": None,
    "mbpp": None,
    "livecodebench": None,
    "demo-math": None,
    "demo-mcq": None,
    "demo-code": None,
    "demo-if": None,
}
"""Names of --tasks: a benchmark of the registry, and the hub's rows of it where they have the publisher's fields."""


def main(argv: Sequence[str], make_worker: Callable[[WorkerSettings], DirectWorker]) -> int:
    """Runs the tasks in turn; what an earlier call finished is kept. Returns 0, 1 (failed) or 2 (the user must act)."""
    args = parse(argv, TASKS)
    try:
        config, jobs = plan_jobs(args, TASKS)
        results = run_jobs(args, config, jobs, make_worker)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrimodeError as error:
        print(f"failed: {error}\nFinished samples are kept; the same command goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; finished samples are kept, the same command goes on", file=sys.stderr)
        return 130
    print_summary(results)
    if args.output is not None:
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        write_json_atomic(args.output, {"args": shown, "results": [asdict(result) for result in results]})
    return 0


def run_jobs(
    args: argparse.Namespace, config: Config, jobs: list[JobSpec], make_worker: Callable[[WorkerSettings], DirectWorker]
) -> list[TaskResult]:
    """Runs every job on one worker, in one run folder that nobody else may use meanwhile."""
    paths = RunPaths(Path(jobs[0].run_dir))
    owner = this_process()
    claim(paths.run_dir, owner)
    worker: DirectWorker | None = None
    try:
        work = [(job, load_tasks(job, paths)[0]) for job in jobs]
        if any(loaded.num_left for _, loaded in work):
            worker = make_worker(worker_settings(args, config, jobs[0]))
        return asyncio.run(run_all(args, work, paths, worker))
    finally:
        if worker is not None:
            worker.close()
        release(paths.run_dir, owner.token)


def worker_settings(args: argparse.Namespace, config: Config, spec: JobSpec) -> WorkerSettings:
    """What the worker loads, from the plan."""
    return WorkerSettings(
        model=spec.model.path,
        revision=spec.model.revision,
        lora=spec.decode.lora_path,
        tokenizer=spec.model.tokenizer,
        device=args.device,
        dtype=spec.model.dtype,
        max_num_seqs=spec.client.max_num_seqs,
        kv_cache_gb=config.balancer.kv_cache_gb,
        max_position_embeddings=spec.model.max_position_embeddings,
    )


async def run_all(
    args: argparse.Namespace, work: Sequence[tuple[JobSpec, LoadedTask]], paths: RunPaths, worker: DirectWorker | None
) -> list[TaskResult]:
    """The tasks in the order asked for, each with its header and its closing line."""
    results: list[TaskResult] = []
    for job, loaded in work:
        kept = loaded.rows_asked - loaded.num_left
        earlier = f", {kept} finished earlier" if kept else ""
        print(f"\n=== {loaded.benchmark.name}: {loaded.rows_asked} samples{earlier}, mode {args.mode}", flush=True)
        results.append(await run_task((job, paths), loaded, worker, args.print_every))
        print_result(results[-1])
    return results


def load_worker(settings: WorkerSettings) -> DirectWorker:
    """The real worker. torch comes in here and no earlier: help, mistakes and scoring processes do without it."""
    from trimode.workers.worker import Worker

    return Worker(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load_worker))
