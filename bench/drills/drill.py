"""One drill: a fresh sweep, struck at random moments, left to recover, and compared with the undisturbed one."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trimode.bench.drills.cluster import REST_S, Cluster, scontrol
from trimode.bench.drills.compare import Difference, Result, difference, read_result
from trimode.bench.drills.strikes import KINDS, Kind, Strike, unmount
from trimode.bench.drills.sweep import Settings, Sweep
from trimode.core.errors import WorkerError
from trimode.core.files import whole_lines
from trimode.core.project import child_environment

PATIENCE_S = 900.0
"""A drill that takes longer hangs."""
TICK_S = 0.25
AFTERLIFE_S = 15.0
"""Seconds that processes get to end after the job's end."""
MOST_TYPED = 5
"""Commands by hand after which a drill is given up."""
DISK = "size=6m"
"""Size of a small file system: a sweep takes half a megabyte."""
SHARE = 0.6
"""Part of a phase's measured length in which a strike may fall: the machine may be quicker than it was."""
PHASES = {"start-up": 0.3, "serving": 0.45, "end": 0.25}
"""Parts of a job's life, each with the share of the strikes that fall into it."""


class Hang(Exception):  # noqa: N818 (an event)
    """The drill did not come to its end in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the undisturbed sweep left, and how long the parts of its life were."""

    result: Result
    seconds: dict[str, float]
    """By phase."""
    counted: int
    """Forwards by the workers' counters. They must be those of the ledger, else the drills count nothing again."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What came of one drill."""

    kind: str
    mode: str
    seed: int
    strikes: int = 1
    """How often the job is to be struck."""
    phase: str = ""
    """The part of the job's life in which it is to be struck; empty: any, at random."""
    phases: list[str] = field(default_factory=list)
    """What the job was doing at each strike."""
    seconds: float = 0.0
    typed: list[str] = field(default_factory=list)
    found: Difference | None = None
    """None if the drill hung."""
    regenerated: int = 0
    """Tokens that were generated more than once."""
    left_processes: list[str] = field(default_factory=list)
    left_files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def is_clean(self) -> bool:
        """True if nothing was lost, doubled, wrong, hung, left over, or typed by hand without need."""
        found = self.found
        return (
            found is not None
            and not (found.lost or found.doubled or found.wrong_verdicts or found.other_rows)
            and not (self.left_processes or self.left_files)
            and (KINDS[self.kind].by_hand or not self.typed)
        )


def read_records(path: Path) -> list[Record]:
    """Returns the records that earlier commands have written; none if the file is not there."""
    records = []
    for line in whole_lines(path):
        raw = json.loads(line)
        if raw["found"] is not None:
            lists = {name: tuple(raw["found"][name]) for name in ("left_files", "details")}
            raw["found"] = Difference(**raw["found"] | lists)
        records.append(Record(**raw))
    return records


def write_record(path: Path, record: Record) -> None:
    """Appends a record to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


class Drill:
    """One sweep from its first submission to its end, with somebody beside it who types what a person must."""

    def __init__(self, sweep: Sweep, cluster: Cluster, kind: Kind | None = None) -> None:
        self.sweep = sweep
        self._cluster = cluster
        self._kind = kind
        self._pending_since: float | None = None
        self._deadline = time.monotonic() + PATIENCE_S

    def run(self, record: Record, reference: Reference, strikes: int) -> None:
        """Runs the drill and fills the record, all but the comparison."""
        rng = random.Random(record.seed)  # noqa: S311 (moments of strikes are no secret)
        self._submit()
        order = list(PHASES)
        drawn = rng.choices(order, list(PHASES.values()), k=strikes)
        for wanted in sorted(drawn, key=order.index):  # a job that is not started again comes by each phase once
            if not self._strike(rng, record, reference, record.phase or wanted):
                break
        while not self.tick():
            time.sleep(TICK_S)

    def measure(self) -> dict[str, float]:
        """Runs the sweep undisturbed. Returns the seconds of each phase."""
        self._submit()
        seconds = dict.fromkeys(PHASES, 0.0)
        last = time.monotonic()
        while not self.tick():
            time.sleep(TICK_S / 2)
            now = time.monotonic()
            if self.sweep.pids("job"):
                seconds[_part(self.sweep.phase())] += now - last
            last = now
        return seconds

    def _submit(self) -> None:
        if self.sweep.submit() != 0 or not self.sweep.job_ids:
            raise Hang(f"the command failed: {(self.sweep.folder / 'commands.log').read_text()}")

    def tick(self) -> bool:
        """Looks once, and does what a person or the clock would do. Returns True at the sweep's end. Raises Hang."""
        if time.monotonic() > self._deadline:
            raise Hang(f"no end after {PATIENCE_S:.0f} s")
        self.sweep.look()
        try:
            state, reason = self.sweep.queue_state()
            if state == "PENDING" and self._may_start(reason):
                scontrol("update", f"JobId={self.sweep.job_id}", "StartTime=now")
            if not self.sweep.has_ended():
                return False
        except WorkerError:  # slurmctld is away
            return False
        if not self.sweep.is_completed():
            self._type_again()
            return False
        return True

    def _may_start(self, reason: str) -> bool:
        """True if a requeued job may begin: the drill plays the clock, since Slurm waits for two minutes."""
        if "held" in reason.lower() or reason.startswith("JobHeld"):
            self.sweep.type(f"scontrol release ({reason})")
            scontrol("release", self.sweep.job_id)
            return False
        if reason != "BeginTime":
            self._pending_since = None
            return False
        self._pending_since = self._pending_since or time.monotonic()
        if time.monotonic() - self._pending_since < REST_S:
            return False
        self._pending_since = None
        return True

    def _type_again(self) -> None:
        self.sweep.type("the same command")
        if len(self.sweep.typed) > MOST_TYPED:
            raise Hang(f"not completed after {MOST_TYPED} commands")
        self.sweep.submit()

    def _strike(self, rng: random.Random, record: Record, reference: Reference, wanted: str) -> bool:
        """Strikes once, at a random moment of a phase. Returns False if the job has ended before."""
        if not self._wait_for_phase(wanted):
            return False
        end = time.monotonic() + rng.uniform(0.0, SHARE * reference.seconds[wanted])
        while time.monotonic() < end:
            if self.tick():
                return False
            time.sleep(min(TICK_S, max(0.0, end - time.monotonic())))
        return self._hit(rng, record)

    def _hit(self, rng: random.Random, record: Record) -> bool:
        """Strikes as soon as there is something to hit. Returns False if the job has ended before."""
        assert self._kind is not None
        strike = Strike(sweep=self.sweep, cluster=self._cluster, random=rng)
        while not self.tick():
            phase = self.sweep.phase()
            if not self.sweep.is_completed() and self.sweep.pids("job") and self._kind.strike(strike):
                record.phases.append(phase)
                self._note_end(record)
                return True
            time.sleep(TICK_S / 2)
        return False

    def _note_end(self, record: Record) -> None:
        """Notes what a job left whose disk was full, before the command is typed again."""
        assert self._kind is not None
        if not self._kind.small_disk or self.sweep.paths is None:
            return
        said = "".join(path.read_text(errors="replace") for path in self.sweep.out_dir.glob(".submitit/*/*_log.out"))
        state, reason = self.sweep.queue_state()
        marker = self.sweep.paths.failed(0)
        cause = marker.exists() and "space" in marker.read_text(errors="replace")
        record.notes.append(
            f"{state} ({reason}); marker {'with' if cause else 'without' if marker.exists() else 'missing,'} cause; "
            f"Slurm's output {'names' if 'No space left' in said else 'does not name'} it"
            f"{'; TRACEBACK' if 'Traceback' in said else ''}"
        )

    def _wait_for_phase(self, wanted: str) -> bool:
        """Returns True once the job is in this part of its life or beyond; False if it has ended."""
        order = list(PHASES)
        while not self.tick():
            if self.sweep.pids("job") and order.index(_part(self.sweep.phase())) >= order.index(wanted):
                return True
            time.sleep(TICK_S / 2)
        return False


def _part(phase: str) -> str:
    """Scoring without serving is part of the end."""
    return "end" if phase == "scoring" else phase


def make_reference(folder: Path, settings: Settings, cluster: Cluster) -> Reference:
    """Runs a sweep undisturbed. Raises Hang if it does not complete."""
    sweep = Sweep(folder, settings)
    try:
        seconds = Drill(sweep, cluster).measure()
        tidy(sweep)
        result = read_result(sweep.out_dir, settings.benchmarks)
        return Reference(result=result, seconds=seconds, counted=sweep.forwards_done())
    finally:
        sweep.kill_all()


def run_drill(record: Record, folder: Path, settings: Settings, reference: Reference, cluster: Cluster) -> Record:
    """Runs one drill of the record's kind. Nothing of it is left running."""
    kind = KINDS[record.kind]
    sweep, began = Sweep(folder, settings), time.monotonic()
    record.folder = str(folder)
    sweep.out_dir.mkdir(parents=True)
    if kind.small_disk:
        mount = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(sweep.out_dir)]
        subprocess.run(mount, check=True, capture_output=True)
    try:
        Drill(sweep, cluster, kind).run(record, reference, strikes=1 if kind.small_disk else record.strikes)
        compare(record, sweep, reference)
    except (Hang, subprocess.TimeoutExpired) as error:
        record.notes.append(f"HANG: {error}")
    finally:
        record.typed = list(sweep.typed)
        sweep.kill_all()
        if kind.small_disk:
            unmount(sweep.out_dir)
    record.seconds = time.monotonic() - began
    return record


def compare(record: Record, sweep: Sweep, reference: Reference) -> None:
    """Notes what a finished sweep left, and how it differs from the reference."""
    end = time.monotonic() + AFTERLIFE_S
    while (left := sweep.processes()) and time.monotonic() < end:
        time.sleep(0.2)
    record.left_processes = [f"{pid} {command[:120]}" for pid, command in left.items()]
    tidy(sweep)
    result = read_result(sweep.out_dir, sweep.settings.benchmarks)
    record.found = difference(result, reference.result)
    temporary = [name for name in sorted(sweep.temporary) if Path(name).exists()]
    temporary += [str(path) for path in (sweep.folder / "tmp").iterdir()]
    record.left_files = [*record.found.left_files, *temporary]
    again = max(0, sweep.forwards_done() - result.forwards)
    record.regenerated = round(again * result.tokens / result.forwards) if result.forwards else 0


def tidy(sweep: Sweep) -> None:
    """Removes what a submission keeps until its jobs have ended, as any later command does."""
    command: Sequence[str] = [sys.executable, "-m", "trimode.pipeline.status", str(sweep.out_dir)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, env=child_environment(), capture_output=True, timeout=60, check=False)
