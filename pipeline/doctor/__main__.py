"""Checks a sweep before its first run: python -m trimode.pipeline.doctor [--probe] [--json] [the flags of eval.sh].

Prints a line per finding: ok, warn or fail, with what to do about it. Without --mode it looks at Slurm, folders and
environment, and at no sweep. Exit status: 0 nothing fails, 1 something does,
2 the flags are wrong. Nothing is submitted without --probe, which runs one small job of some seconds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimode.core.command import UNREAD, run_command
from trimode.core.counted import counted
from trimode.core.errors import FAILED, ConfigError, guarded
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flags import to_overrides
from trimode.pipeline.config.schema import Config
from trimode.pipeline.doctor import place, slurm
from trimode.pipeline.doctor.probe_host import PROBE
from trimode.pipeline.launch import preflight
from trimode.pipeline.launch.finding import Check, Finding, State, Subject, failure, findings, ok, warn
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.rounds import JobProgress, continue_or_start
from trimode.pipeline.plan.survey import survey
from trimode.pipeline.spec import JobSpec

NEEDS_MODE = "give the flags of the sweep, for example --mode dlm --benchmarks gsm8k"
WIDTH = 20
"""Columns of a finding's name."""


def subject_of(config: Config, cwd: Path) -> tuple[Subject, list[Finding]]:
    """Returns the sweep as far as it can be planned, and what stood in the way.

    Without its adapter a sweep is planned as if no mode used one, so that the other checks have something to look at.
    """
    problems: list[Finding] = []
    try:
        found = survey(config, cwd)
    except ConfigError as error:
        problems.append(failure("adapter" if str(error).startswith("lora") else "model", error))
        modes = {name: dataclasses.replace(mode, lora=False) for name, mode in config.modes.items()}
        revision = None if "revision" in str(error) else config.model.revision
        config = dataclasses.replace(config, modes=modes, model=dataclasses.replace(config.model, revision=revision))
        found = survey(config, cwd)
    jobs: list[JobSpec] = []
    try:
        states = continue_or_start(plan(config, found), config.fresh)
        jobs = [state.spec for state in states if state.progress is not JobProgress.SKIPPED]
        done = len(states) - len(jobs)
        problems.append(ok("plan", counted(len(jobs), "job") + (f", {done} finished before" if done else "")))
    except ConfigError as error:
        problems.append(failure("plan", error))
    return Subject(config=config, survey=found, jobs=jobs), problems


def examine(config: Config, cwd: Path, probe: bool, sweep: bool = True) -> Iterator[Finding]:
    """Yields what every check finds, as soon as it is known. `sweep`: False leaves out what belongs to jobs."""
    try:
        check(config)
        yield ok("settings", "every rule holds")
    except ConfigError as error:
        yield failure("settings", error)
    subject, problems = subject_of(config, cwd)
    if sweep:
        yield from problems
    else:
        subject = dataclasses.replace(subject, jobs=())
        yield warn("sweep", "not checked: without --mode there is no sweep to look at", NEEDS_MODE)
    for each in (*preflight.CHECKS, *place.CHECKS):
        if each.name != "sbatch":  # asked for its version below
            yield from findings(each, subject)
    yield from examine_cluster(subject, (*slurm.CHECKS, *((PROBE,) if probe else ())), sweep)


def examine_cluster(subject: Subject, checks: Sequence[Check], sweep: bool) -> Iterator[Finding]:
    """Yields what the checks of the cluster find. Where there is none, one says why and the others do not ask."""
    absent = False
    for each in checks:
        if absent:
            yield warn(each.name, "not checked: there is no cluster here", "")
        elif sweep or each.needs_no_job:
            for finding in findings(each, subject):
                absent = absent or (finding.name == slurm.NO_CLUSTER and finding.state is State.FAIL)
                yield finding


def line(finding: Finding) -> str:
    """Returns a finding as a line, and its remedy as a second one."""
    text = f"{finding.state.value:<5} {finding.name:<{WIDTH}} {' '.join(finding.text.split())}"
    return f"{text}\n{'':<6}{'':<{WIDTH}} -> {finding.remedy}" if finding.remedy else text


def run(argv: Sequence[str]) -> int:
    """Everything after the start. Returns the exit status. Raises ConfigError for wrong flags."""
    words = [word for word in argv if word not in ("--probe", "--json")]
    if {"--help", "-h"} & set(words):
        print(__doc__)
        return 0
    sweep = any(word.partition("=")[0] in ("--mode", "--demo") for word in words)
    config = compose(to_overrides(words if sweep else [*words, "--mode", "all"]))
    found: list[Finding] = []
    for finding in examine(config, Path.cwd(), "--probe" in argv, sweep):
        found.append(finding)
        if "--json" not in argv:
            print(line(finding), flush=True)
    counts = {state: sum(item.state is state for item in found) for state in State}
    if "--json" in argv:
        rows = [dataclasses.asdict(item) for item in found]
        print(json.dumps({"ok": not counts[State.FAIL], "findings": rows}, indent=2))
    else:
        print(", ".join(f"{count} {state.value}" for state, count in counts.items()))
    return FAILED if counts[State.FAIL] else 0


def main(argv: Sequence[str]) -> int:
    """The command. Returns the exit status."""
    return guarded(lambda: run(argv))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]), unfinished=UNREAD)
