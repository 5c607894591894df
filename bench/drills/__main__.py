"""`python -m trimode.bench.drills`: kills jobs of a private Slurm at random moments and shows what was lost."""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from trimode.bench.drills.cluster import SETTINGS, Cluster, output, running_cluster
from trimode.bench.drills.drill import Record, Reference, make_reference, read_records, run_drill, write_record
from trimode.bench.drills.strikes import KINDS
from trimode.bench.drills.sweep import Settings
from trimode.bench.drills.table import as_markdown, describe, machine
from trimode.core.command import UNREAD, run_command
from trimode.core.errors import FAILED, ConfigError, guarded
from trimode.core.protocol import Mode

SAY = threading.Lock()


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    flags = argparse.ArgumentParser(prog="python -m trimode.bench.drills", description=__doc__)
    flags.add_argument("--kills", type=int, default=20, metavar="N", help="strikes in all, spread over the kinds (20)")
    flags.add_argument("--kinds", default=",".join(KINDS), metavar="LIST", help="kinds of strikes, with commas (all)")
    flags.add_argument("--modes", default="ar,dlm,linear_spec", metavar="LIST", help="decoding modes, in turn (all)")
    flags.add_argument("--per-run", type=int, default=2, metavar="N", help="strikes on one sweep (2)")
    flags.add_argument("--at-once", type=int, default=2, metavar="N", help="sweeps at the same time (2)")
    flags.add_argument("--limit", type=int, default=40, metavar="N", help="samples of each benchmark (40)")
    flags.add_argument("--tokens", type=int, default=320, metavar="N", help="tokens of each answer (320)")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (0)")
    flags.add_argument(
        "--records", type=Path, metavar="FILE", help="adds to the records of earlier commands in this file"
    )
    flags.add_argument("--write", type=Path, metavar="FILE", help="writes the table to this file too")
    flags.add_argument("--keep", action="store_true", help="keep the folders of drills that were not clean")
    return flags


class Planner:
    """Deals out the drills: every kind gets its share of the kills, and another drill for a strike that missed."""

    def __init__(self, kinds: Sequence[str], modes: Sequence[str], arguments: argparse.Namespace) -> None:
        shares = [arguments.kills // len(kinds) + (n < arguments.kills % len(kinds)) for n in range(len(kinds))]
        self._left = dict(zip(kinds, shares, strict=True))
        self._tries = dict.fromkeys(kinds, arguments.kills + 3)
        self._per_run = arguments.per_run
        self._modes = modes
        self._rng = random.Random(arguments.seed)  # noqa: S311 (moments of strikes are no secret)
        self._count = 0

    def next(self, alone: bool) -> Record | None:
        """Returns a drill of the kinds that may (not) run beside others; None if none is left to start."""
        with SAY:
            for kind, left in self._left.items():
                if left > 0 and KINDS[kind].alone == alone and self._tries[kind] > 0:
                    self._tries[kind] -= 1
                    strikes = 1 if KINDS[kind].small_disk else min(self._per_run, left)
                    self._left[kind] -= strikes
                    mode = self._modes[self._count % len(self._modes)]
                    self._count += 1
                    return Record(kind=kind, mode=mode, seed=self._rng.randrange(10**6), strikes=strikes)
            return None

    def done(self, record: Record) -> None:
        """Takes back the strikes of a drill that did not hit."""
        with SAY:
            self._left[record.kind] += record.strikes - len(record.phases)


class Drills:
    """Runs drills on one cluster."""

    def __init__(self, folder: Path, cluster: Cluster, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._cluster = cluster
        self._arguments = arguments
        self._references: dict[Settings, Reference] = {}
        self._measuring = threading.Lock()
        self._count = 0

    def settings(self, record: Record) -> Settings:
        """Returns the sweep that a drill strikes."""
        kind, arguments = KINDS[record.kind], self._arguments
        settings = Settings(mode=record.mode, limit=kind.scale * arguments.limit, tokens=arguments.tokens)
        return replace(settings, benchmarks=kind.benchmarks) if kind.benchmarks else settings

    def run(self, planner: Planner) -> list[Record]:
        """Runs all drills, those that may be together at the same time. Returns their records, kind by kind."""
        with ThreadPoolExecutor(self._arguments.at_once) as pool:
            beside = [pool.submit(self._all, planner, False) for _ in range(self._arguments.at_once)]
            done = [record for future in beside for record in future.result()]
        done += self._all(planner, True)
        return sorted(done, key=lambda record: list(KINDS).index(record.kind))

    def _all(self, planner: Planner, alone: bool) -> list[Record]:
        done = []
        while (record := planner.next(alone)) is not None:
            done.append(self._one(record))
            planner.done(record)
            if alone:
                self._cluster.make_idle()
        return done

    def _reference(self, settings: Settings) -> Reference:
        with self._measuring:
            if settings not in self._references:
                made = make_reference(self._new_folder(), settings, self._cluster)
                self._references[settings] = made
                seconds = ", ".join(f"{name} {s:.1f} s" for name, s in made.seconds.items())
                counted = f"{made.counted} forwards counted, {made.result.forwards} in the ledger"
                say(f"reference {settings.mode} {','.join(settings.benchmarks)}: {seconds}; {counted}")
            return self._references[settings]

    def _one(self, record: Record) -> Record:
        folder, settings = self._new_folder(), self.settings(record)
        run_drill(record, folder, settings, self._reference(settings), self._cluster)
        say(
            f"{record.kind} {record.mode} seed {record.seed}: {', '.join(record.phases) or 'not hit'}; "
            f"{record.seconds:.0f} s, {record.regenerated} tokens again, {len(record.typed)} typed, "
            f"{'clean' if record.is_clean else 'NOT CLEAN'}"
        )
        for line in describe(record):
            say(f"    {line}")
        if self._arguments.records is not None:
            with SAY:
                write_record(self._arguments.records, record)
        if record.is_clean or not self._arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
        return record

    def _new_folder(self) -> Path:
        with SAY:
            self._count += 1
            return self._folder / f"d{self._count}"


def say(line: str) -> None:
    """Prints a line at once."""
    with SAY:
        print(line, flush=True)


def listed(text: str, valid: Sequence[str], flag: str) -> list[str]:
    """Returns the names in a list with commas. Raises ConfigError for an unknown one."""
    names = [name for name in text.split(",") if name]
    if not names or (wrong := [name for name in names if name not in valid]):
        raise ConfigError(f"{flag}: got {', '.join(wrong if names else ['none'])}; valid: {', '.join(valid)}")
    return names


def run(argv: Sequence[str]) -> int:
    """The command. Returns 0 if every drill was clean."""
    arguments = parser().parse_args(argv)
    kinds = listed(arguments.kinds, list(KINDS), "--kinds")
    modes = listed(arguments.modes, [mode.value for mode in Mode], "--modes")
    if os.getuid() != 0 and "full_disk" in kinds:
        say("full_disk is left out: only root can mount a small file system")
        kinds.remove("full_disk")
    folder = Path(tempfile.mkdtemp(prefix="trimode-drills-"))
    try:
        with running_cluster(SETTINGS) as cluster:
            records = Drills(folder, cluster, arguments).run(Planner(kinds, modes, arguments))
            slurm = output("sinfo", "--version").strip()
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    made = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {slurm} with two nodes on one machine of {machine()}"
    if arguments.records is not None:
        records = read_records(arguments.records)
    records.sort(key=lambda record: list(KINDS).index(record.kind))
    page = as_markdown(records, f"python -m trimode.bench.drills {shlex.join(argv)}", made)
    print(f"\n{page}", flush=True)
    if arguments.write is not None:
        arguments.write.write_text(page, encoding="utf-8")
    return 0 if all(record.is_clean for record in records) else FAILED


if __name__ == "__main__":
    run_command(lambda: guarded(lambda: run(sys.argv[1:])), unfinished=UNREAD)
