"""Reads run folders back, finished or not: rows, ledgers, metrics, manifest; notes everything torn or missing.

Knows no statistics and no output format; it never writes and never raises over a damaged file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.run_folder.nfe import ERROR, NfeRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import ERROR_KIND, INFRASTRUCTURE, LEDGER, POSITION
from trimode.pipeline.scoring.metrics import Row
from trimode.pipeline.scoring.verdicts import is_scored

_OUTPUT = re.compile(r"output(?:-rs(?P<seed>\d+))?(?:\.jsonl|(?:_part_\d+)?\.jsonl-async)")
_BULKY = ("serialized_output", "logprobs", "tokens", "top_logprobs")
"""Row fields nothing here reads; they would double the memory of a large sweep."""

Key = tuple[int, int]
"""(sample id, seed)."""


@dataclass(slots=True)
class TaskResult:
    """One benchmark of one run."""

    benchmark: Benchmark
    rows: dict[Key, Row] = field(default_factory=dict)
    """Scored rows by (sample id, seed)."""
    records: dict[Key, NfeRecord] = field(default_factory=dict)
    """Ledgers of those rows; a row whose ledger is lost has none."""
    metrics: dict[str, dict[str, float]] | None = None
    """Aggregations of metrics.json; None until it is written."""
    num_expected: int | None = None
    """Rows when finished (samples x seeds); None when nothing says so."""

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
        """Whether every expected row is there and metrics.json covers them."""
        complete = self.num_expected is None or len(self.rows) >= self.num_expected
        return complete and self.metrics is not None and bool(self.rows)

    @property
    def failed_keys(self) -> list[Key]:
        """Samples whose request failed; they count as no answer."""
        return [key for key, record in self.records.items() if record.finish_reason == ERROR]


@dataclass(slots=True)
class Run:
    """One run folder: one mode, its benchmarks."""

    path: Path
    mode: Mode
    lora: bool
    manifest: Row
    jobs: list[Row]
    """Job specs: of plan.json (the last submission), then of manifest.json (what ran)."""
    tasks: dict[str, TaskResult]
    state: str
    """completed | failed | unfinished."""
    notes: list[str]
    """What was torn, missing or doubtful while reading."""

    @property
    def label(self) -> str:
        """`ar`, `dlm`, `linear_spec` or `linear_spec+lora`."""
        return f"{self.mode.value}+lora" if self.lora else self.mode.value


def find_run_folders(root: Path) -> list[Path]:
    """Every run folder at or below `root`, sorted. Raises ConfigError when there is none."""
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
    """Every run at or below `roots`, ordered by mode, adapter and path, and what was torn, missing or doubtful.

    Raises ConfigError when no folder holds a run.
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
    """One run folder. Raises ConfigError only when nothing in it tells the mode."""
    paths, notes = RunPaths(folder), list[str]()
    manifest = _read_object(paths.manifest, notes)
    jobs = _jobs(_read_object(paths.plan, notes) if paths.plan.exists() else {}) + _jobs(manifest)
    ledger = _read_ledgers(folder, notes)
    mode, lora = _mode_of(folder, jobs, ledger)
    tasks: dict[str, TaskResult] = {}
    for task_dir in sorted(paths.eval_results.glob("*/")):
        task = _read_task(task_dir, notes)
        if task is None:
            continue
        wanted = [record for record in ledger if record.benchmark == task.benchmark.name]
        _attach(task, wanted, notes)
        task.num_expected = _num_expected(jobs, task)
        tasks[task.benchmark.name] = task
    return Run(folder, mode, lora, manifest, jobs, tasks, _state(folder, tasks), notes)


def _is_run_folder(folder: Path) -> bool:
    paths = RunPaths(folder)
    return paths.manifest.is_file() or paths.eval_results.is_dir() or (paths.plan.is_file() and paths.owner.is_file())


def _state(folder: Path, tasks: dict[str, TaskResult]) -> str:
    if tasks and all(task.finished for task in tasks.values()):
        return "completed"  # a FAILED marker may be that of an earlier split into jobs
    return "failed" if any(folder.glob("FAILED_group*")) else "unfinished"


def _read_object(path: Path, notes: list[str]) -> Row:
    """A JSON object; {} and a note when it is absent or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append(f"{path} is missing")
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read: {error}")
        return {}
    return value if isinstance(value, dict) else {"jobs": value}


def _read_lines(path: Path, notes: list[str]) -> Iterator[Row]:
    """Objects of a jsonl file; a torn or foreign line is left out with a note."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError:
                    notes.append(f"{path}, line {number}: torn, left out")
                    continue
                if isinstance(value, dict):
                    yield value
    except OSError as error:
        notes.append(f"{path} cannot be read: {error}")


def _read_ledgers(folder: Path, notes: list[str]) -> list[NfeRecord]:
    """Every line of every nfe_log.jsonl of the run."""
    records: list[NfeRecord] = []
    for path in sorted(folder.glob("nfe_group*/nfe_log.jsonl")):
        for value in _read_lines(path, notes):
            try:
                records.append(NfeRecord.from_json(value))
            except TypeError as error:
                notes.append(f"{path}: a line lacks fields and is left out ({error})")
    return records


def _jobs(source: Row) -> list[Row]:
    """Job specs in a plan (a list) or a manifest (by index, under `config`)."""
    jobs = source.get("jobs", [])
    found = jobs.values() if isinstance(jobs, dict) else jobs if isinstance(jobs, list) else []
    specs = [job.get("config", job) for job in found if isinstance(job, dict)]
    return [spec for spec in specs if isinstance(spec, dict)]


def _mode_of(folder: Path, jobs: list[Row], ledger: list[NfeRecord]) -> tuple[Mode, bool]:
    """Mode and adapter of a run: from the ledger, else from its job specs."""
    for record in ledger:
        return Mode(record.mode), record.lora
    for job in jobs:
        decode = job.get("decode")
        if isinstance(decode, dict) and decode.get("mode") in list(Mode):
            return Mode(decode["mode"]), bool(decode.get("lora"))
    raise ConfigError(f"{folder}: neither nfe_log.jsonl, plan.json nor manifest.json tells the mode of this run")


def _read_task(task_dir: Path, notes: list[str]) -> TaskResult | None:
    """Rows and metrics of one benchmark folder; None with a note when the benchmark is unknown."""
    try:
        task = TaskResult(load_benchmark(task_dir.name))
    except ConfigError as error:
        notes.append(f"{task_dir}: {error}")
        return None
    unscored = 0
    for path in sorted(task_dir.iterdir()):
        match = _OUTPUT.fullmatch(path.name)
        if match is None:
            continue
        seed = int(match["seed"] or 0)
        for position, row in enumerate(_read_lines(path, notes)):
            for name in _BULKY:
                row.pop(name, None)
            key = (int(row.pop(POSITION, position)), seed)
            carried = row.pop(LEDGER, None)
            if not is_scored(task.benchmark, row):
                unscored += 1
                continue
            # -async sorts behind the finished file and holds the newer rows; a row with an answer stays
            if key in task.rows and row.get(ERROR_KIND) == INFRASTRUCTURE:
                continue
            task.rows[key] = row
            if isinstance(carried, dict):
                task.records[key] = NfeRecord.from_json(carried)
    if unscored:
        notes.append(f"{task_dir}: {unscored} rows carry no verdict of {task.benchmark.metric} and are left out")
    metrics_path = task_dir / "metrics.json"
    if metrics_path.exists():
        metrics = _read_object(metrics_path, notes).get(task.benchmark.name)
        task.metrics = metrics if isinstance(metrics, dict) else None
    return task


def _attach(task: TaskResult, records: list[NfeRecord], notes: list[str]) -> None:
    """Joins ledgers to scored rows by (sample id, seed); a line without a row is not counted, nor a second one."""
    name, repeated = task.benchmark.name, 0
    for record in records:
        key = (record.sample_id, record.seed)
        if key not in task.rows:
            continue
        earlier = task.records.get(key)
        if earlier is None or earlier.error is not None:
            task.records[key] = record
        elif earlier != record:
            repeated += 1
    if repeated:
        notes.append(f"{name}: {repeated} samples have more than one line in nfe_log.jsonl; the first answer counts")
    if missing := len(task.rows) - len(task.records):
        notes.append(f"{name}: {missing} of {len(task.rows)} scored samples have no line in nfe_log.jsonl")
    if failed := task.failed_keys:
        shown = ", ".join(f"{sample_id} (seed {seed})" for sample_id, seed in sorted(failed)[:8])
        notes.append(
            f"{name}: {len(failed)} failed samples count as no answer: {shown}{', …' if len(failed) > 8 else ''}"
        )


def _num_expected(jobs: list[Row], task: TaskResult) -> int | None:
    """Rows x seeds that the last submission asked for."""
    for job in jobs:
        specs = job.get("tasks")
        for spec in specs if isinstance(specs, list | tuple) else ():
            if isinstance(spec, dict) and spec.get("benchmark") == task.benchmark.name:
                rows, limit = int(spec["num_samples"]), spec.get("limit")
                return (rows if limit is None else min(rows, int(limit))) * int(spec.get("repeats", 1))
    return None
