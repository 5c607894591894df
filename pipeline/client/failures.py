"""Prints which samples of a job got no answer, and which answers could not be scored."""

from __future__ import annotations

from collections.abc import Sequence

from trimode.pipeline.console.log import printable
from trimode.pipeline.run_folder.nfe import read_run_ledger
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_unscored
from trimode.pipeline.spec import JobSpec

MAX_NAMED = 10
"""Samples of each kind that are named. The others are counted."""
MAX_REASON = 500
"""Characters of a reason that are printed. The sample's row holds all of it."""


def name_failures(spec: JobSpec, paths: RunPaths) -> None:
    """Prints one line per sample, with the reason."""
    ours = {task.benchmark for task in spec.tasks}
    failed = [
        (record.benchmark, record.seed, record.sample_id, record.error)
        for record in read_run_ledger(paths.run_dir).values()
        if record.error is not None and record.benchmark in ours
    ]
    _name("no answer", failed)
    _name("not scored, counts as wrong", list(read_unscored(spec, paths)))


def _name(what: str, samples: Sequence[tuple[str, int, int, str]]) -> None:
    for benchmark, seed, position, reason in samples[:MAX_NAMED]:
        print(printable(f"{what}: {benchmark} seed {seed} sample {position}: {reason[:MAX_REASON]}"), flush=True)
    if len(samples) > MAX_NAMED:
        print(f"{what}: {len(samples) - MAX_NAMED} more", flush=True)
