"""What the journal costs: the same requests with and without it, in turn, in one process.

Prints per mode the share by which the journal slows decoding down, by the CPU time of the engine's thread, by that of
the whole process (which has the thread that writes) and by the clock: medians over pairs of runs, with the middle half.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import WorkerSettings
from trimode.workers.journal.journal import EVERY_S, Journal
from trimode.workers.runtime import Runtime

MODES = ("ar", "dlm", "linear_spec")
Seconds = tuple[float, float, float]
"""CPU seconds of this thread, CPU seconds of the process, seconds of the clock."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    print(f"{args.requests} requests of {args.tokens} tokens, {args.pairs} pairs; a line per request and {EVERY_S} s")
    for mode in args.modes:
        fields = {"mode": mode, "max_new_tokens": args.tokens, "ignore_eos": True}
        with tempfile.TemporaryDirectory() as folder:
            pairs = []
            for number in range(args.pairs + 1):
                order = (None, Path(folder)) if number % 2 else (Path(folder), None)
                taken = {where is not None: run(runtime, fields, args.requests, where) for where in order}
                pairs.append((taken[True], taken[False]))
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
        seconds = statistics.median(off[2] for _, off in pairs[1:])
        rate = args.requests * args.tokens / seconds
        print(f"{mode}: {seconds:.1f} s a run, {rate:.0f} tokens/s, {size / len(pairs):.0f} bytes of journal a run")
        for place, what in enumerate(("CPU of the engine's thread", "CPU of the process", "clock")):
            losses = sorted(100 * (on[place] / off[place] - 1) for on, off in pairs[1:])  # the first compiles
            low, middle, high = statistics.quantiles(losses, n=4)
            print(f"  {what}: {middle:+.2f} % (middle half {low:+.2f} to {high:+.2f})")


def run(runtime: Runtime, fields: dict[str, object], count: int, folder: Path | None) -> Seconds:
    """Decodes the requests to their end. Returns the seconds taken."""
    journal = None if folder is None else Journal(folder, "", "bench")
    for number in range(count):
        runtime.submit(str(number), {**fields, "prompt": f"What is {number} + {number}?"})
    began = time.thread_time(), time.process_time(), time.perf_counter()
    engine = runtime.engine
    while engine.busy:
        ended = engine.step()
        if journal is not None:
            journal.after_step(engine.running, ended)
    if journal is not None:
        journal.close((), ())
    ended_at = time.thread_time(), time.process_time(), time.perf_counter()
    return tuple(late - early for early, late in zip(began, ended_at, strict=True))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
