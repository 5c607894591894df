"""`python -m trimode.bench.drills.early`: kills set moments after the start of a job, before and while it gets ready.

Every drill is a small sweep, submitted with `--wait`, whose batch script, srun or Python gets SIGKILL or SIGTERM once.
Nothing is typed afterwards: the command that waits has to end with 0, with the rows of an undisturbed sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trimode.bench.drills.cluster import REST_S, SETTINGS, Cluster, running_cluster, scontrol
from trimode.bench.drills.drill import Record, Reference, compare, make_reference, read_records
from trimode.bench.drills.sweep import Settings, Sweep
from trimode.core.command import UNREAD, run_command
from trimode.core.errors import FAILED, guarded
from trimode.core.files import whole_lines
from trimode.pipeline.slurm.queue import queue_entries

PROGRAMS = ("batch", "srun", "job")
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
MOMENTS_S = (0.0, 0.2, 0.5, 0.8, 1.2, 2.0)
SETTINGS_OF_SWEEP = Settings(benchmarks=("demo-math",), limit=8, tokens=64)
PATIENCE_S = 300.0
HEAD = (
    "signal to",
    "seconds",
    "drills",
    "lost",
    "doubled",
    "other rows",
    "hangs",
    "typed by hand",
    "left",
    "went on by",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One drill: what is struck, when, and what came of it."""

    program: str
    signal_name: str
    at_s: float
    """Seconds after the start of the batch script."""
    late_s: float = 0.0
    """Seconds by which the strike came later, because the program was not there before."""
    way: str = ""
    """How the job went on."""
    record: Record


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    flags = argparse.ArgumentParser(prog="python -m trimode.bench.drills.early", description=__doc__)
    flags.add_argument("--times", type=int, default=3, metavar="N", help="drills of each kind and moment (3)")
    flags.add_argument("--programs", default=",".join(PROGRAMS), metavar="LIST", help="what is struck (all)")
    flags.add_argument("--at-once", type=int, default=3, metavar="N", help="sweeps at the same time (3)")
    flags.add_argument("--records", type=Path, metavar="FILE", help="adds to the records of earlier commands in it")
    return flags


class EarlyDrill:
    """One sweep with a command that waits for it."""

    def __init__(self, folder: Path, hit: Hit) -> None:
        self._hit = hit
        self.sweep = Sweep(folder, SETTINGS_OF_SWEEP)
        self._deadline = time.monotonic() + PATIENCE_S
        self._pending_since: dict[str, float] = {}

    def run(self, reference: Reference) -> Hit:
        """Runs it to its end. Nothing of it is left running."""
        hit, record = self._hit, self._hit.record
        began = time.monotonic()
        self.sweep.out_dir.mkdir(parents=True)
        with (self.sweep.folder / "said").open("wb") as said:
            command = self.sweep.start_command("--wait", output=said)
        try:
            hit = replace(hit, late_s=self._strike(command))
            while command.poll() is None and time.monotonic() < self._deadline:
                self._play_the_clock()
                time.sleep(0.25)
            if command.poll() is None:
                record.notes.append("HANG")
            else:
                record.typed = ["the same command"] * (command.returncode != 0)
                compare(record, self.sweep, reference)
        finally:
            command.kill()
            command.wait()
            self.sweep.kill_all()
        record.seconds = time.monotonic() - began
        return replace(hit, way=self._way())

    def _strike(self, command: subprocess.Popen[str]) -> float:
        """Sends the signal. Returns by how many seconds it came too late."""
        start = self._first("batch", command)
        moment = time.monotonic() + self._hit.at_s  # a process's own start time may be wrong by part of a second
        time.sleep(self._hit.at_s)
        pid = start if self._hit.program == "batch" else self._first(self._hit.program, command)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[self._hit.signal_name])
            self._hit.record.phases.append(f"{self._hit.at_s} s")
        return max(0.0, time.monotonic() - moment)

    def _first(self, program: str, command: subprocess.Popen[str]) -> int:
        """Waits for a process of the sweep. Returns its id."""
        while command.poll() is None and time.monotonic() < self._deadline:
            if pids := self.sweep.pids(program):
                return pids[0]
            time.sleep(0.01)
        raise TimeoutError(f"no {program} to strike")

    def _play_the_clock(self) -> None:
        """Lets jobs begin that were requeued: Slurm waits two minutes."""
        text = (self.sweep.folder / "said").read_text(errors="replace")
        self.sweep.job_ids = [line.split()[1] for line in text.splitlines() if line.startswith("submitted ")]
        for job_id, entry in queue_entries(self.sweep.job_ids).items():
            if entry.state != "PENDING" or entry.reason != "BeginTime":
                self._pending_since.pop(job_id, None)
            elif time.monotonic() - self._pending_since.setdefault(job_id, time.monotonic()) > REST_S:
                scontrol("update", f"JobId={job_id}", "StartTime=now")
                self._pending_since.pop(job_id)

    def _way(self) -> str:
        """Returns how the job went on, from what Slurm and the logs say."""
        if len(self.sweep.job_ids) > 1:
            return "submitted again"
        shown = " ".join(scontrol("show", "job", *self.sweep.job_ids).split())
        if "Restarts=0" not in shown:
            return "requeued"
        logs = self.sweep.out_dir.glob(".submitit/*/*_log.out")
        again = any("is started again" in path.read_text(errors="replace") for path in logs)
        return "step started again" if again else "it was not stopped"


def write_hit(path: Path, hit: Hit) -> None:
    """Appends a drill to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(hit)) + "\n")


def read_hits(path: Path) -> list[Hit]:
    """Returns the drills of earlier commands."""
    hits = []
    for line in whole_lines(path):
        raw = json.loads(line)
        beside = path.with_suffix(".record")
        beside.write_text(json.dumps(raw.pop("record")) + "\n", encoding="utf-8")
        [record] = read_records(beside)
        beside.unlink()
        hits.append(Hit(**raw, record=record))
    return hits


def as_markdown(hits: Sequence[Hit]) -> str:
    """Returns a line per program, signal and moment."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    keys = sorted({(hit.program, hit.signal_name, hit.at_s) for hit in hits})
    for program, name, at_s in keys:
        here = [hit for hit in hits if (hit.program, hit.signal_name, hit.at_s) == (program, name, at_s)]
        lines.append(f"| {program}, SIG{name} | {at_s} | {_counts(here)} |")
    return "\n".join([*lines, f"| all | | {_counts(hits)} |"])


def _counts(hits: Sequence[Hit]) -> str:
    records = [hit.record for hit in hits]
    found = [record.found for record in records if record.found is not None]
    ways = ", ".join(f"{way} {count}" for way, count in sorted(Counter(hit.way for hit in hits).items()))
    counts = [
        len(records),
        sum(item.lost for item in found),
        sum(item.doubled for item in found),
        sum(item.other_rows + item.wrong_verdicts for item in found),
        len(records) - len(found),
        sum(len(record.typed) for record in records),
        sum(len(record.left_processes) + len(record.left_files) for record in records),
    ]
    return " | ".join([*map(str, counts), ways])


def is_clean(hit: Hit) -> bool:
    """True if nothing was lost, doubled, other than it was, left over, or needed somebody to type."""
    found, record = hit.record.found, hit.record
    rows = found is not None and not (found.lost or found.doubled or found.other_rows or found.wrong_verdicts)
    return rows and not (record.left_processes or record.left_files or record.typed)


def drills(arguments: argparse.Namespace, folder: Path, cluster: Cluster) -> list[Hit]:
    """Runs all drills, some at the same time."""
    reference = make_reference(folder / "calm", SETTINGS_OF_SWEEP, cluster)
    programs = arguments.programs.split(",")
    kinds = [kind for _ in range(arguments.times) for kind in itertools.product(programs, SIGNALS, MOMENTS_S)]

    def one(number: int) -> Hit:
        program, name, at_s = kinds[number]
        record = Record(kind=program, mode="ar", seed=number)
        hit = Hit(program=program, signal_name=name, at_s=at_s, record=record)
        try:
            hit = EarlyDrill(folder / f"d{number}", hit).run(reference)
        except TimeoutError as error:
            record.notes.append(str(error))
        clean = "clean" if is_clean(hit) else f"NOT CLEAN in {folder}/d{number}: {record.notes} {record.found}"
        print(
            f"{program} SIG{name} {at_s} s (+{hit.late_s:.2f}): {hit.way}, {record.seconds:.0f} s, {clean}", flush=True
        )
        if arguments.records is not None:
            write_hit(arguments.records, hit)
        return hit

    with ThreadPoolExecutor(arguments.at_once) as pool:
        return list(pool.map(one, range(len(kinds))))


def run(argv: Sequence[str]) -> int:
    """The command. Returns 0 if every drill was clean. Folders of others are kept."""
    arguments = parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="trimode-early-"))
    with running_cluster(SETTINGS) as cluster:
        hits = drills(arguments, folder, cluster)
    if arguments.records is not None:
        hits = read_hits(arguments.records)
    print(f"\n    python -m trimode.bench.drills.early {shlex.join(argv)}\n\n{as_markdown(hits)}", flush=True)
    return 0 if all(is_clean(hit) for hit in hits) else FAILED


if __name__ == "__main__":
    run_command(lambda: guarded(lambda: run(sys.argv[1:])), unfinished=UNREAD)
