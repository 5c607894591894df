"""Reads run folders, finished or not: rows, ledgers, metrics and manifest. It never writes.

A damaged file is no error: whatever is torn or missing becomes a note.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode, Row
from trimode.pipeline.analysis.job_specs import Json, num_expected, read_jobs
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.run_folder.nfe import ERROR, NfeRecord, add_record, is_count, nfe_logs
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import LEDGER, POSITION, SCORING_ERROR, UNSCORED, add_row, placed_lines
from trimode.pipeline.run_folder.submission import planned
from trimode.pipeline.scoring.verdicts import is_scored
from trimode.pipeline.spec import JobSpec

_OUTPUT = re.compile(r"output(?:-rs(?P<seed>\d+))?(?:\.jsonl|(?:_part_\d+)?\.jsonl-async)")
_BULKY = ("serialized_output", "logprobs", "tokens", "top_logprobs")
"""Row fields that no analysis reads. Keeping them would double the memory of a large sweep."""

Key = tuple[int, int]
"""(sample id, seed)."""


@dataclass(slots=True)
class TaskResult:
    """One benchmark of one run."""

    benchmark: Benchmark
    rows: dict[Key, Row] = field(default_factory=dict)
    """Scored rows by (sample id, seed)."""
    records: dict[Key, NfeRecord] = field(default_factory=dict)
    """Ledger lines of those rows. A row whose line is lost has none."""
    metrics: dict[str, dict[str, float]] | None = None
    """Aggregations of metrics.json; None until it is written."""
    num_expected: int | None = None
    """Number of rows when finished (samples x seeds); None if no job spec says it."""
    counts_end: bool = True
    """True if the end token is among the generated tokens, as this project counts; a running server may not."""

    @property
    def seeds(self) -> list[int]:
        """Seeds that have at least one row."""
        return sorted({seed for _, seed in self.rows})

    @property
    def sample_ids(self) -> list[int]:
        """Problems that have at least one row."""
        return sorted({sample_id for sample_id, _ in self.rows})

    @property
    def finished(self) -> bool:
        """True if every expected row is there and metrics.json is written."""
        complete = self.num_expected is None or len(self.rows) >= self.num_expected
        return complete and self.metrics is not None and bool(self.rows)

    @property
    def failed_keys(self) -> list[Key]:
        """Samples without an answer, because their request failed. They count as wrong."""
        return [key for key in self.rows if self.failed(key)]

    @property
    def unscored_keys(self) -> list[Key]:
        """Answers that the scorer could not judge. They count as wrong."""
        return [key for key, row in self.rows.items() if SCORING_ERROR in row]

    def failed(self, key: Key) -> bool:
        """True if the sample has no answer, by its ledger line, or by its row if the line is lost."""
        record = self.records.get(key)
        return bool(self.rows[key].get("error")) if record is None else record.finish_reason == ERROR


@dataclass(slots=True)
class Run:
    """One run folder: one mode, its benchmarks."""

    path: Path
    mode: Mode
    lora: bool
    manifest: Json
    jobs: list[JobSpec]
    """Specs in plan.json (the last submission), then in manifest.json (what ran). Unreadable ones are left out."""
    tasks: dict[str, TaskResult]
    state: str
    """completed | failed | unfinished."""
    notes: list[str]
    """What was torn, missing or doubtful while reading."""

    @property
    def label(self) -> str:
        """`ar`, `dlm`, `linear_spec` or `linear_spec+lora`; of a running server `ar@engine`."""
        return self.mode.value + ("+lora" if self.lora else "") + (f"@{self.engine}" if self.engine else "")

    @property
    def engine(self) -> str | None:
        """Engine of the running server that was asked; None if this project's balancer answered."""
        return next((job.client.server.engine for job in self.jobs if job.client.server is not None), None)


def find_run_folders(root: Path) -> list[Path]:
    """Returns every run folder at or below `root`, sorted. Raises ConfigError if there is none."""
    if not root.is_dir():
        raise ConfigError(f"a report needs a folder at or above run folders: got {str(root)!r}, which is not a folder")
    found: list[Path] = []
    for folder, subfolders, _ in os.walk(root):
        if _is_run_folder(Path(folder)):
            found.append(Path(folder))
            subfolders.clear()
        else:
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    if not found:
        raise ConfigError(
            f"no run folder at or below {str(root)!r}; a run folder is <out_dir>/<exp_name>/hf_base/<eval_dir_name> "
            "and holds manifest.json or results/eval-results/"
        )
    return sorted(found)


def read_sweep(*roots: Path) -> tuple[list[Run], list[str]]:
    """Returns every run at or below `roots`, ordered by mode, adapter and path, and notes of what is torn or missing.

    Raises ConfigError if no folder holds a run.
    """
    runs: list[Run] = []
    notes: list[str] = []
    for folder in dict.fromkeys(folder for root in roots for folder in find_run_folders(root)):
        try:
            runs.append(read_run(folder))
        except ConfigError as error:
            notes.append(str(error))
    if not runs:
        raise ConfigError("; ".join(notes))
    order = list(Mode)
    runs.sort(key=lambda run: (order.index(run.mode), run.lora, str(run.path)))
    return runs, notes + [note for run in runs for note in run.notes]


def read_run(folder: Path) -> Run:
    """Reads one run folder. Raises ConfigError only if nothing in it says the mode."""
    paths, notes = RunPaths(folder), list[str]()
    manifest = _read_object(paths.manifest, notes)
    plan = _read_object(paths.plan, notes) if paths.plan.exists() else planned(folder)
    jobs = read_jobs(plan, paths.plan, notes) + read_jobs(manifest, paths.manifest, notes)
    ledger = _read_ledgers(folder, notes)
    mode, lora = _mode_of(folder, jobs, ledger)
    tasks: dict[str, TaskResult] = {}
    for task_dir in sorted(paths.eval_results.glob("*/")):
        task = _read_task(task_dir, notes)
        if task is None:
            continue
        wanted = [record for record in ledger if record.benchmark == task.benchmark.name]
        _attach(task, wanted, f"{mode.value}{'+lora' if lora else ''} {task.benchmark.name}", notes)
        task.num_expected = num_expected(jobs, manifest, task.benchmark.name)
        task.counts_end = all(job.client.server is None for job in jobs)
        tasks[task.benchmark.name] = task
    return Run(folder, mode, lora, manifest, jobs, tasks, _state(folder, tasks), notes)


def _is_run_folder(folder: Path) -> bool:
    paths = RunPaths(folder)
    if paths.manifest.is_file() or paths.eval_results.is_dir():
        return True
    return paths.owner.is_file() and (paths.plan.is_file() or bool(planned(folder)))


def _state(folder: Path, tasks: dict[str, TaskResult]) -> str:
    if tasks and all(task.finished for task in tasks.values()):
        return "completed"  # a FAILED marker may be that of an earlier split into jobs
    return "failed" if any(folder.glob("FAILED_group*")) else "unfinished"


def _read_object(path: Path, notes: list[str]) -> Json:
    """Reads a JSON object. Returns {} and adds a note if the file is absent or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append(f"{path} is missing")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path} cannot be read: {error}")
        return {}
    return value if isinstance(value, dict) else {"jobs": value}


def _read_ledgers(folder: Path, notes: list[str]) -> list[NfeRecord]:
    """Reads every line of every nfe_log.jsonl of the run."""
    records: list[NfeRecord] = []
    for path in nfe_logs(folder):
        for _, value in placed_lines(path, notes):
            try:
                records.append(_emitted(NfeRecord.from_json(value)))
            except TypeError as error:
                notes.append(f"{path}: a line lacks fields and is left out ({error})")
    return records


def _emitted(record: NfeRecord) -> NfeRecord:
    """Returns the record with acceptance lengths that end where the answer ends.

    Earlier releases recorded whole drafts, also past an end token or the limit. The prompt gives the first token.
    """
    lengths, left = list[int](), record.cost.completion_tokens - 1
    for length in record.cost.acceptance_lengths:
        lengths.append(min(length, max(left, 0)))
        left -= length
    if lengths == record.cost.acceptance_lengths:
        return record
    return replace(record, cost=replace(record.cost, acceptance_lengths=lengths))


def _mode_of(folder: Path, jobs: list[JobSpec], ledger: list[NfeRecord]) -> tuple[Mode, bool]:
    """Returns the mode of a run and whether it has an adapter: from the ledger, else from its job specs."""
    for record in ledger:
        return Mode(record.mode), record.lora
    for job in jobs:
        return job.decode.mode, job.decode.lora
    raise ConfigError(f"{folder}: neither nfe_log.jsonl, plan.json nor manifest.json tells the mode of this run")


def _read_task(task_dir: Path, notes: list[str]) -> TaskResult | None:
    """Reads rows and metrics of one benchmark folder. Returns None and adds a note if the benchmark is unknown."""
    try:
        task = TaskResult(load_benchmark(task_dir.name))
    except ConfigError as error:
        notes.append(f"{task_dir}: {error}")
        return None
    unscored = uncounted = 0
    for path in sorted(task_dir.iterdir()):
        match = _OUTPUT.fullmatch(path.name)
        if match is None:
            continue
        seed = int(match["seed"] or 0)
        for position, row in placed_lines(path, notes):
            if UNSCORED in row:
                continue
            for name in _BULKY:
                row.pop(name, None)
            index = row.pop(POSITION, position)
            carried = row.pop(LEDGER, None)
            key = (index, seed)
            if type(index) is not int or not is_scored(task.benchmark, row):
                unscored += 1
                continue
            uncounted += not is_count(row.get("num_generated_tokens", 0))
            # -async sorts behind the finished file and holds the newer rows
            if add_row(task.rows, key, row) and isinstance(carried, dict):
                with contextlib.suppress(TypeError):  # then it counts as a row whose line is lost
                    task.records[key] = _emitted(NfeRecord.from_json(carried))
    if unscored:
        notes.append(f"{task_dir}: {unscored} rows carry no verdict of {task.benchmark.metric} and are left out")
    if uncounted:
        notes.append(f"{task_dir}: {uncounted} rows have a damaged num_generated_tokens, which counts as 0")
    metrics_path = task_dir / "metrics.json"
    if metrics_path.exists():
        metrics = _read_object(metrics_path, notes).get(task.benchmark.name)
        task.metrics = metrics if isinstance(metrics, dict) else None
    return task


def _attach(task: TaskResult, records: list[NfeRecord], name: str, notes: list[str]) -> None:
    """Joins ledger lines to scored rows by (sample id, seed). A line without a row and a second line do not count."""
    repeated = 0
    for record in records:
        key = (record.sample_id, record.seed)
        if key not in task.rows:
            continue
        earlier = task.records.get(key)
        if not add_record(task.records, key, record) and earlier != record:
            repeated += 1
    if repeated:
        notes.append(f"{name}: {repeated} samples have more than one line in nfe_log.jsonl; the first answer counts")
    if missing := len(task.rows) - len(task.records):
        notes.append(f"{name}: {missing} of {len(task.rows)} scored samples have no line in nfe_log.jsonl")
    if failed := task.failed_keys:
        notes.append(f"{name}: {len(failed)} failed samples count as no answer: {_listed(failed)}")
    if unscored := task.unscored_keys:
        notes.append(f"{name}: the scorer failed on {len(unscored)} answers, which count as wrong: {_listed(unscored)}")


def _listed(keys: list[Key]) -> str:
    """Returns the first samples of a list as text."""
    shown = ", ".join(f"{sample_id} (seed {seed})" for sample_id, seed in sorted(keys)[:8])
    return shown + (", …" if len(keys) > 8 else "")
