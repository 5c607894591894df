"""What the journal costs: the same requests with and without it, in turn, in one process.

Prints per mode the CPU time that the journal's own calls take, as a share of that of the run: in the engine's thread,
which they hold up, and in the thread that writes. Beside it the loss from runs without to runs with the journal, by the
CPU time of the engine's thread and by the clock: medians over pairs of runs, with the middle half.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from trimode.core.command import run_command
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import WorkerSettings
from trimode.workers.journal.journal import EVERY_S, LOOK_EVERY_S, SHARE, Journal
from trimode.workers.runtime import Runtime

MODES = ("ar", "dlm", "linear_spec")


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one run."""

    clock_s: float
    cpu_s: float
    """CPU time of the engine's thread; so is the next."""
    calls_s: float = 0.0
    """Of these in calls of the journal."""
    writer_s: float = 0.0
    """CPU time of the thread that writes."""
    lines: float = 0.0
    """Lines of a request, in the mean."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode.bench.journal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=str(PROJECT_DIR / "assets" / "demo_model"))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--requests", type=int, default=16, help="decoded together")
    parser.add_argument("--tokens", type=int, default=1000, help="of each answer")
    parser.add_argument("--pairs", type=int, default=12, help="runs with the journal, and as many without")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runtime = Runtime(
        WorkerSettings(model=args.model, dtype="float32", device="cpu", max_num_seqs=args.requests, kv_cache_gb=1.0)
    )
    print(
        f"{args.requests} requests of {args.tokens} tokens, {args.pairs} pairs; a line per request every "
        f"{LOOK_EVERY_S} to {EVERY_S} s, so that lines take {SHARE:.1%} of the time"
    )
    for mode in args.modes:
        fields = {"mode": mode, "max_new_tokens": args.tokens, "ignore_eos": True}
        with tempfile.TemporaryDirectory() as folder:
            pairs = []
            for number in range(args.pairs + 1):
                order = (None, Path(folder)) if number % 2 else (Path(folder), None)
                taken = {where is not None: run(runtime, fields, args.requests, where) for where in order}
                pairs.append((taken[True], taken[False]))
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
        pairs = pairs[1:]  # the first compiles
        seconds = statistics.median(off.clock_s for _, off in pairs)
        rate = args.requests * args.tokens / seconds
        print(
            f"{mode}: {seconds:.1f} s a run, {rate:.0f} tokens/s, {size / (len(pairs) + 1):.0f} bytes of journal "
            f"a run, {statistics.median(on.lines for on, _ in pairs):.1f} lines per request"
        )
        show("calls in the engine's thread", [on.calls_s / on.cpu_s for on, _ in pairs])
        show("the thread that writes", [on.writer_s / on.cpu_s for on, _ in pairs])
        show("loss by CPU of the engine's thread", [on.cpu_s / off.cpu_s - 1 for on, off in pairs])
        show("loss by the clock", [on.clock_s / off.clock_s - 1 for on, off in pairs])


def show(what: str, shares: list[float]) -> None:
    """Prints the median of some shares and where their middle half lies."""
    low, middle, high = statistics.quantiles([100 * share for share in shares], n=4)
    print(f"  {what}: {middle:+.3f} % (middle half {low:+.3f} to {high:+.3f})", flush=True)


def run(runtime: Runtime, fields: dict[str, object], count: int, folder: Path | None) -> Taken:
    """Decodes the requests to their end. Returns the seconds taken."""
    journal = None if folder is None else Journal(folder, "", "bench")
    for number in range(count):
        runtime.submit(str(number), {**fields, "prompt": f"What is {number} + {number}?"})
    began, began_cpu = time.perf_counter(), time.thread_time()
    calls_s = 0.0
    engine = runtime.engine
    while engine.busy:
        ended = engine.step()
        if journal is not None:
            before = time.thread_time()
            journal.after_step(engine.running, ended)
            calls_s += time.thread_time() - before
    clock_s, cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu
    if journal is None:
        return Taken(clock_s, cpu_s)
    done: Future[None] = Future()
    journal.after_step((), (), [done])
    done.result()
    writer = next(thread for thread in threading.enumerate() if thread.name == "journal")
    assert writer.ident is not None
    writer_s = time.clock_gettime(time.pthread_getcpuclockid(writer.ident))
    lines = journal.num_lines / count
    journal.close((), ())
    return Taken(clock_s, cpu_s, calls_s, writer_s, lines)


if __name__ == "__main__":
    run_command(main)
