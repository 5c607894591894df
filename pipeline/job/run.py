"""Runs one job inside its allocation: starts the balancer, runs the benchmarks and leaves exactly one marker.

Every early end of the job becomes FAILED_group<N> and a JobFailed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from trimode.core.counted import counted
from trimode.core.errors import START_AGAIN, JobFailed, Stopped, TrimodeError, WorkerError, storage_problem
from trimode.core.files import has_space, tail, write_text_atomic
from trimode.core.locked_folder import BALANCER_FOLDERS, remove_unlocked
from trimode.core.project import child_environment
from trimode.pipeline.client.answer import Answer, check_context
from trimode.pipeline.client.chat import ChatClient, most_at_once
from trimode.pipeline.client.metrics_file import check_metrics
from trimode.pipeline.client.nemo_skills import run as nemo_skills_client
from trimode.pipeline.client.recorded import recorded_run
from trimode.pipeline.client.samples import MakePool, run_tasks
from trimode.pipeline.client.tasks import LoadedTask, load_tasks
from trimode.pipeline.console.log import JobLog
from trimode.pipeline.console.progress import Bars, Progress
from trimode.pipeline.console.signals import Signals
from trimode.pipeline.job.attempt import after_a_signal, may_start_again, signal_comes_first
from trimode.pipeline.job.balancer import BALANCER, BalancerProcess
from trimode.pipeline.job.devices import choose_devices
from trimode.pipeline.job.foreign import ForeignServer, server_facts
from trimode.pipeline.job.ready import Ready
from trimode.pipeline.run_folder.failure_record import FailureRecord
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.lease import Lease
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import now
from trimode.pipeline.spec import ClientKind, Executor, JobSpec

WATCH_EVERY_S = 0.2
Server = BalancerProcess | ForeignServer
"""What answers a job's prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a job starts; tests put stand-ins here."""

    balancer: tuple[str, ...] = BALANCER
    """Arguments of the Python interpreter that start the balancer."""
    make_pool: MakePool | None = None
    """Makes the scorers of one benchmark; None = scoring processes."""


def run_job(spec: JobSpec, hooks: Hooks | None = None) -> None:
    """Runs one job to COMPLETED_group<N>; rows that earlier runs finished are kept.

    Raises JobFailed after writing FAILED_group<N>; SystemExit(START_AGAIN) after it where the batch script can start
    the job again; SystemExit without a marker where a signal of Slurm ended the run (`job.attempt`).
    """
    hooks = hooks or Hooks()
    paths = RunPaths(Path(spec.run_dir).absolute())
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    _enter(paths.run_dir)
    lease, record = Lease(paths, spec.index), FailureRecord(paths.failed(spec.index))
    with JobLog(paths.pipeline_log(spec.index)) as log, Signals() as signals:
        try:
            paths.completed(spec.index).unlink(missing_ok=True)
            record.reserve()
            _remove_left(paths, spec.index)
            print(f"=== {now()} {spec.name}: job {spec.index} on {socket.gethostname()}, pid {os.getpid()}", flush=True)
            _run(RunFolder(spec, paths, lease), (log, signals), hooks)
            signals.check()
            signals.ignore()
            lease.check_now()
            write_text_atomic(paths.completed(spec.index), now() + "\n")
            _remove_journals(paths, spec.index)
            record.release()
            print(f"=== {now()} {spec.name}: completed", flush=True)
        except BaseException as error:  # the job's boundary: every end that the process survives leaves a record
            signals.ignore()
            if not lease.is_held():
                print(f"=== {now()} {spec.name}: another run of this job has started; this one stops", flush=True)
                raise JobFailed(f"{spec.name}: another run of this job has started") from error
            ending = after_a_signal(spec, paths, error)
            if isinstance(ending, tuple):
                record.release()
                status, message = ending
                print(f"=== {now()} {spec.name}: {message}", flush=True)
                raise SystemExit(status) from error
            failure = _record_failure(spec, paths, record, ending or error)
            if may_start_again(error):
                raise SystemExit(START_AGAIN) from error
            raise failure from error


def _remove_left(paths: RunPaths, index: int) -> None:
    """Removes what a run that was killed has left on this machine and in the run folder."""
    remove_unlocked(Path("/tmp"), BALANCER_FOLDERS)  # noqa: S108 (the place, not a file)
    for ready in paths.balancers_ready(index):
        ready.unlink(missing_ok=True)


def _run(folder: RunFolder, console: tuple[JobLog, Signals], hooks: Hooks) -> None:
    """Everything between the two markers."""
    log, signals = console
    spec, paths, lease = folder.spec, folder.paths, folder.lease
    assert lease is not None
    loaded = load_tasks(folder)

    def interrupt() -> None:
        signals.check()
        lease.check()

    interrupt()
    with recorded_run(spec, paths, loaded) as manifest, signal_comes_first(signals):
        if any(item.num_left for item in loaded):
            with _server(folder, hooks) as server:
                ready = server.wait_ready(interrupt)
                if spec.client.server is None or ready.served is None:
                    manifest.add_workers(ready.workers)
                else:
                    manifest.add_server(server_facts(spec.client.server, ready.served))
                if ready.max_model_len is not None:
                    check_context(spec.decode, ready.max_model_len)
                if isinstance(server, BalancerProcess):
                    server.on_lost = lambda lost: _note_lost(manifest, lost)
                print(f"serving at {ready.url}", flush=True)
                _run_client(folder, (server, ready), loaded, (log, signals), hooks)
        else:
            unscored = sum(len(positions) for item in loaded for positions in item.unscored.values())
            again = f"{counted(unscored, 'answer is', 'answers are')} scored again, then" if unscored else "only"
            print(f"every sample is finished; {again} the metrics are written", flush=True)
            with _progress(spec, paths, log, loaded) as progress:
                signals.run(run_tasks(folder, loaded, _ask_nobody, progress, hooks.make_pool))
        for item in loaded:
            if folder.has_metrics(item.task):
                check_metrics(paths, item.task, item.rows_asked)
            else:
                _announce_share(item)


def _server(folder: RunFolder, hooks: Hooks) -> Server:
    """Returns what is to answer the prompts: a balancer that is started, or a server that runs already."""
    spec = folder.spec
    if spec.client.server is not None:
        print(f"asking {spec.model.path} at {spec.client.server.url}; no model is started here", flush=True)
        return ForeignServer(spec, spec.client.server)
    devices = choose_devices(spec.resources)
    nodes = f" on each of {spec.resources.num_nodes} nodes" if spec.resources.num_nodes > 1 else ""
    print(f"starting {devices.num_workers} worker(s) on {devices.device}{nodes} for {spec.model.path}", flush=True)
    return BalancerProcess(folder, devices, hooks.balancer)


def _run_client(
    folder: RunFolder,
    served: tuple[Server, Ready],
    loaded: list[LoadedTask],
    console: tuple[JobLog, Signals],
    hooks: Hooks,
) -> None:
    """Sends every unfinished sample through the client the job asks for."""
    spec, paths = folder.spec, folder.paths
    server, ready = served
    log, signals = console
    if spec.client.kind is ClientKind.nemo_skills and ready.slots is not None:
        at_once = most_at_once(spec.client, ready.slots)
        spec = replace(spec, client=replace(spec.client, max_concurrent_requests=at_once))
        for task in spec.tasks:
            with signals.at_once():
                nemo_skills_client.run_task(spec, task, (ready.url, ready.api_key), paths)
        return
    with _progress(spec, paths, log, loaded) as progress:
        signals.run(_run_embedded(folder, served, loaded, progress, hooks))
    server.check()


async def _run_embedded(
    folder: RunFolder,
    served: tuple[Server, Ready],
    loaded: list[LoadedTask],
    progress: Progress,
    hooks: Hooks,
) -> None:
    """Runs the tasks while the balancer lives. Raises WorkerError if the balancer ends."""
    spec = folder.spec
    server, ready = served
    chat = ChatClient(ready.url, ready.model, spec.decode, spec.client, slots=ready.slots, api_key=ready.api_key)
    async with chat as client:
        work = asyncio.create_task(run_tasks(folder, loaded, client.ask, progress, hooks.make_pool))
        watch = asyncio.create_task(_watch(server, folder))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            await (watch if watch.done() else work)
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)


def _note_lost(manifest: Manifest, lost: dict[str, int]) -> None:
    """Says which workers are lost with their nodes, here and in the manifest."""
    text = ", ".join(f"{count} with {node}" for node, count in lost.items())
    print(f"workers lost: {text}; the job goes on with the others" if lost else "all workers are back", flush=True)
    manifest.add_lost(lost)


def _announce_share(loaded: LoadedTask) -> None:
    """Says that this job's share is finished and that another job writes the metrics."""
    chunk = loaded.task.chunk
    assert chunk is not None
    share = f"chunk {chunk.index} of {chunk.count}"
    print(f"{loaded.benchmark.name}: {share} is finished; the last one to finish puts all together", flush=True)


async def _watch(server: Server, folder: RunFolder) -> None:
    while True:
        server.check()
        if folder.lease is not None:
            folder.lease.check()
        await asyncio.sleep(WATCH_EVERY_S)


async def _ask_nobody(name: str, _prompt: str, _seed: int) -> Answer:
    raise WorkerError(f"{name} was to be asked, but every sample counted as finished")


def _progress(spec: JobSpec, paths: RunPaths, log: JobLog, loaded: list[LoadedTask]) -> Progress:
    """Returns the job's progress with every benchmark announced. On a terminal it shows bars, and lines in the log."""
    bars = Bars(Console(file=log.terminal)) if log.terminal else None
    show = log.write_line if bars else _print_line
    here = spec.resources.executor is Executor.local
    progress = Progress(spec.name, show, snapshot=paths.progress(spec.index), bars=bars, watched_here=here)
    for item in loaded:
        total = len(item.positions) * len(item.task.seeds)
        progress.begin(item.benchmark.name, total=total, done=item.num_done)
        kept = max(len(finished) for finished in item.finished.values())
        if item.task.chunk is None and kept > item.rows_asked:
            show(
                f"{item.benchmark.name}: {item.rows_asked} samples per seed asked, {kept} are finished; the others stay"
            )
    return progress


def _record_failure(spec: JobSpec, paths: RunPaths, record: FailureRecord, error: BaseException) -> JobFailed:
    """Writes FAILED_group<N> with the cause and the logs' tails, and returns the error to raise."""
    problem = storage_problem(error) if isinstance(error, OSError) else None
    if problem is None and not isinstance(error, TrimodeError | Stopped):
        traceback.print_exception(error)
    cause = problem or f"{type(error).__name__}: {error}"
    if problem is None and not has_space(paths.run_dir):
        cause += f"\nno space is left in {paths.run_dir}"
    print(f"=== {now()} {spec.name}: failed: {cause}", file=sys.stderr, flush=True)
    path, log = paths.failed(spec.index), paths.pipeline_log(spec.index)
    text = f"{now()}\nCause: {cause}\n\n--- end of {log.name}\n{tail(log, 40)}\n"
    balancer_log = paths.balancer_log(spec.index)
    if balancer_log.exists():
        text += f"\n--- end of {balancer_log.name}\n{tail(balancer_log, 40)}\n"
    paths.completed(spec.index).unlink(missing_ok=True)
    try:
        record.write(text)
    except OSError as unwritten:
        print(f"=== {now()} {spec.name}: no failure record could be written: {unwritten}", file=sys.stderr, flush=True)
        return JobFailed(f"{spec.name}: {cause}")
    return JobFailed(f"{spec.name}: {cause}\nfailure record: {path}", path)


def _remove_journals(paths: RunPaths, group: int) -> None:
    """Removes what only a run that goes on would need, and the folder if no other job has something in it."""
    with contextlib.suppress(OSError):
        for path in paths.journals(group):
            path.unlink(missing_ok=True)
        paths.journal.rmdir()


def _enter(run_dir: Path) -> None:
    """Makes the run folder the current one: Ray puts the driver's folder on every worker's path, and it has no code.

    The environment is made fit for the processes started from here first: PYTHONPATH may hold relative entries.
    """
    os.environ.update(child_environment())
    os.chdir(run_dir)


def _print_line(line: str) -> None:
    print(line, flush=True)
