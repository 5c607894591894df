"""The two rivals: workers that are called in their own processes, and the same workers behind the balancer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from trimode.bench.balancer.load import Load, Seen, ask_worker, run_callers
from trimode.bench.balancer.scripted import STEP_VARIABLE
from trimode.core.processes import die_with_parent, spare_collector
from trimode.core.protocol import WorkerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The workers of one table."""

    name: str
    worker_class: str
    model: str
    max_num_seqs: int
    num_threads: int
    fields: Mapping[str, object]
    """Of a request, as the worker takes them."""
    body: Mapping[str, object]
    """Of the same request to the server."""
    tokens: int
    """In each answer."""
    step_ms: float | None
    """Length of a step; None where it depends on the load."""


def cpu_s(pids: Iterable[int]) -> float:
    """Returns the processor time that these processes and those below them have taken so far."""
    total = 0.0
    for pid in pids:
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                times = process.cpu_times()
                total += times.user + times.system
    return total


@contextlib.contextmanager
def balancer_server(setup: Setup, num_workers: int) -> Iterator[tuple[int, int]]:
    """Starts the balancer; yields its port and its process id."""
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "log"
        command = [sys.executable, "-m", "trimode.balancer", "--model", setup.model, "--device", "cpu"]
        command += ["--worker-class", setup.worker_class, "--num-workers", str(num_workers), "--dtype", "float32"]
        command += ["--max-num-seqs", str(setup.max_num_seqs), "--num-threads", str(setup.num_threads)]
        command += ["--kv-cache-gb", "0.2", "--ready-file", str(ready)]
        with (
            log.open("wb") as output,
            subprocess.Popen(command, stderr=output, env=_environment(setup), preexec_fn=die_with_parent) as process,
        ):
            try:
                while not ready.exists():
                    if process.poll() is not None:
                        raise RuntimeError(log.read_text())
                    time.sleep(0.02)
                yield int(json.loads(ready.read_text())["url"].rpartition(":")[2]), process.pid
            finally:
                process.terminate()
                process.wait()


@contextlib.contextmanager
def direct_workers(setup: Setup, num_workers: int) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """Starts the workers without a balancer, each in a process that `measure_direct` orders about."""
    command = [sys.executable, "-m", __spec__.name, json.dumps({"setup": _plain(setup)})]
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(setup),
            preexec_fn=die_with_parent,
        )
        for _ in range(num_workers)
    ]
    try:
        for process in processes:
            _read(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def measure_direct(processes: Sequence[subprocess.Popen[str]], callers: int, requests: int, *, stream: bool) -> Load:
    """Measures the workers without a balancer; callers and requests are dealt out evenly."""
    ordered, began = [], cpu_s(process.pid for process in processes)
    for index, process in enumerate(processes):
        mine = len(range(index, callers, len(processes)))
        if mine:
            order = {"callers": mine, "requests": requests * mine // callers, "stream": stream}
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            ordered.append(process)
    total, seconds = Seen(), 0.0
    for process in ordered:
        found = _read(process)
        total.add(Seen(**found["seen"]))
        seconds = max(seconds, found["seconds"])
    return Load(total, seconds, cpu_s(process.pid for process in processes) - began)


def _read(process: subprocess.Popen[str]) -> Any:  # noqa: ANN401 (a line of JSON)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a worker ended early")
    return json.loads(line)


def _environment(setup: Setup) -> dict[str, str]:
    step = {} if setup.step_ms is None else {STEP_VARIABLE: str(setup.step_ms)}
    return {**os.environ, "OMP_NUM_THREADS": str(setup.num_threads), **step}


def _plain(setup: Setup) -> dict[str, Any]:
    return {name: getattr(setup, name) for name in Setup.__dataclass_fields__}


async def _serve_orders(setup: Setup) -> None:
    module, _, name = setup.worker_class.partition(":")
    settings = WorkerSettings(
        model=setup.model,
        device="cpu",
        dtype="float32",
        max_num_seqs=setup.max_num_seqs,
        num_threads=setup.num_threads,
        kv_cache_gb=0.2,
    )
    worker = getattr(importlib.import_module(module), name)(settings)
    spare_collector()  # as in a worker of the balancer
    print("true", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        ask = ask_worker(worker, setup.fields, stream=order["stream"])
        load = await run_callers(ask, order["callers"], order["requests"])
        seen = {name: getattr(load.seen, name) for name in Seen.__dataclass_fields__}
        print(json.dumps({"seen": seen, "seconds": load.seconds}), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve_orders(Setup(**json.loads(sys.argv[1])["setup"])))
