"""The command behind evaluate.py: plans the jobs, loads one worker, runs the tasks and prints the summary."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from trimode.core.command import INTERRUPTED
from trimode.core.errors import ConfigError, TrimodeError, guarded
from trimode.core.files import write_json_atomic
from trimode.core.protocol import WorkerSettings
from trimode.core.worker import Worker
from trimode.pipeline.client.answer import check_context
from trimode.pipeline.client.metrics_file import UnansweredError
from trimode.pipeline.client.tasks import LoadedTask, load_tasks
from trimode.pipeline.config.schema import Config
from trimode.pipeline.console.log import printable
from trimode.pipeline.data.hub import TASKS
from trimode.pipeline.in_process.flags import parse, plan_jobs
from trimode.pipeline.in_process.run import TaskSummary, print_result, print_summary, run_task
from trimode.pipeline.launch.owner import claim, release, this_process
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec


def main(argv: Sequence[str], make_worker: Callable[[WorkerSettings], Worker]) -> int:
    """Runs the tasks in turn and keeps what an earlier call finished.

    Returns 0, 1 (failed), 2 (the user must act) or 130 (interrupted).
    """
    args = parse(argv, TASKS)
    try:
        return guarded(lambda: evaluate(args, make_worker), text=error_text)
    except KeyboardInterrupt:
        print("\ninterrupted; finished samples are kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED


def error_text(error: TrimodeError) -> str:
    """Returns what is printed for an error: after a failure also how to go on."""
    if isinstance(error, ConfigError):
        return printable(f"error: {error}")
    return printable(f"failed: {error}\nFinished samples are kept; the same command goes on.")


def evaluate(args: argparse.Namespace, make_worker: Callable[[WorkerSettings], Worker]) -> int:
    """Does everything after parsing and returns 0. Raises TrimodeError, also if a task has no answers to report."""
    config, jobs = plan_jobs(args, TASKS)
    results, problems = run_jobs(args, config, jobs, make_worker)
    if results:
        print_summary(results)
    if args.output is not None:
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        write_json_atomic(args.output, {"args": shown, "results": [asdict(result) for result in results]})
    if problems:
        raise UnansweredError("; ".join(problems))
    return 0


def run_jobs(
    args: argparse.Namespace, config: Config, jobs: list[JobSpec], make_worker: Callable[[WorkerSettings], Worker]
) -> tuple[list[TaskSummary], list[str]]:
    """Runs every job on one worker, as `run_all`. Claims the run folder meanwhile.

    Loads no worker if every sample is finished.
    """
    paths = RunPaths(Path(jobs[0].run_dir))
    owner = this_process()
    claim(paths.run_dir, owner, args.take_over)
    worker: Worker | None = None
    try:
        work = [(folder, load_tasks(folder)[0]) for folder in (RunFolder(job, paths) for job in jobs)]
        if any(loaded.num_left for _, loaded in work):
            worker = make_worker(worker_settings(args, config, jobs[0]))
            check_context(jobs[0].decode, worker.info().max_model_len)
        return asyncio.run(run_all(args, work, worker))
    finally:
        if worker is not None:
            worker.close()
        release(paths.run_dir, owner.token)


def worker_settings(args: argparse.Namespace, config: Config, spec: JobSpec) -> WorkerSettings:
    """Returns what the worker loads, from the plan."""
    return WorkerSettings(
        model=spec.model.path,
        revision=spec.model.revision,
        lora=spec.decode.lora_path,
        tokenizer=spec.model.tokenizer,
        device=args.device,
        dtype=spec.model.dtype,
        quantization=spec.model.quantization.value,
        quantize_head=spec.model.quantize_head,
        weight_storage=spec.model.weight_storage.value,
        batch_invariant=spec.model.batch_invariant,
        max_num_seqs=spec.client.max_num_seqs,
        kv_cache_gb=config.balancer.kv_cache_gb,
        max_position_embeddings=spec.model.max_position_embeddings,
    )


async def run_all(
    args: argparse.Namespace, work: Sequence[tuple[RunFolder, LoadedTask]], worker: Worker | None
) -> tuple[list[TaskSummary], list[str]]:
    """Runs the tasks in the given order and prints a header and a closing line for each.

    Returns their summaries, and why the tasks that have none are not finished.
    """
    results: list[TaskSummary] = []
    problems: list[str] = []
    for folder, loaded in work:
        kept = loaded.num_done
        earlier = f", {kept} finished earlier" if kept else ""
        print(f"\n=== {loaded.benchmark.name}: {loaded.rows_asked} samples{earlier}, mode {args.mode}", flush=True)
        try:
            results.append(await run_task(folder, loaded, worker, args.print_every))
        except UnansweredError as error:
            problems.append(str(error))
            print(f"✗ {printable(str(error))}", flush=True)
        else:
            print_result(results[-1])
    return results, problems
