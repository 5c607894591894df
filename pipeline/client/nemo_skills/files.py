"""The files NeMo-Skills reads and writes: data in its layout, its output made resumable, and NFE joined to its rows.

NeMo-Skills keeps only text and token counts of a reply, so what a sample cost comes from the
balancer's request log, found again by the hash of its prompt and its seed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimode.core.errors import ConfigError, WorkerError
from trimode.core.files import cut_torn_line, whole_lines, write_json_atomic, write_text_atomic
from trimode.core.protocol import Cost, Row
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.client.metrics_file import check_metrics
from trimode.pipeline.data import data_root, load_rows
from trimode.pipeline.data.formats import iter_jsonl
from trimode.pipeline.data.load import raw_form
from trimode.pipeline.data.prompts import chat_messages
from trimode.pipeline.data.row_checks import row_error
from trimode.pipeline.run_folder.ledger import Ledger
from trimode.pipeline.run_folder.nfe import NfeRecord, read_run_ledger, summarize
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import POSITION, merge_rows, read_async, read_output
from trimode.pipeline.spec import JobSpec, TaskSpec

Key = tuple[str, int]
"""Hash of the messages, and the seed."""


def write_dataset(benchmark: Benchmark, data_dir: Path | None, limit: int | None, folders: tuple[Path, Path]) -> int:
    """Writes the first rows as a data folder of NeMo-Skills, with the installed package's description beside them.

    `folders`: the installed package, the data folder to make. Returns the number of rows. Raises ConfigError if the
    package lacks the benchmark, or a row cannot be asked.
    """
    package, target = folders
    description = package / "dataset" / benchmark.name / "__init__.py"
    if not description.is_file():
        raise ConfigError(f"the installed NeMo-Skills has no {benchmark.name}: {description} is missing")
    folder = target / benchmark.name
    rows = load_rows(benchmark, data_dir)[:limit]
    for number, row in enumerate(rows, 1):
        if (error := row_error(benchmark, row)) is not None:
            raise ConfigError(
                f"data of {benchmark.name}: row {number} {error}; NeMo-Skills would stop there. "
                "Valid: repair the row, or client=embedded, which records it without an answer"
            )
    write_text_atomic(folder / f"{benchmark.split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    shutil.copyfile(description, folder / "__init__.py")
    tests = data_root(data_dir) / "livecodebench" / "tests.jsonl"
    if benchmark.scorer == "livecodebench" and tests.is_file():
        (folder / "tests").mkdir(exist_ok=True)
        shutil.copyfile(tests, folder / "tests" / tests.name)
    return len(rows)


def dataset_override(benchmark: Benchmark, data_dir: Path | None, num_rows: int, folder: Path) -> dict[str, str]:
    """Returns the environment that points the evaluators at our data: the asked tasks of evalplus, and NLTK."""
    root = data_root(data_dir)
    if benchmark.scorer != "evalplus":
        return {"NLTK_DATA": str(root / "nltk_punkt")} if benchmark.scorer == "ifeval" else {}
    found = raw_form(benchmark, root / benchmark.name)
    if found is None:
        return {}
    path = folder / "tasks.jsonl"
    tasks = [task for file in found[1] for task in iter_jsonl(file)][:num_rows]
    write_text_atomic(path, "".join(json.dumps(task) + "\n" for task in tasks))
    variable = "HUMANEVAL_OVERRIDE_PATH" if benchmark.dataset == "humaneval" else "MBPP_OVERRIDE_PATH"
    return {variable: str(path)}


def reopen_seed(paths: RunPaths, benchmark: str, seed: int, num_rows: int) -> None:
    """Turns a finished output with too few rows back into the -async file from which NeMo-Skills resumes."""
    pending, *chunks = paths.outputs_async(benchmark, seed)
    cut_torn_line(pending)
    output = paths.output(benchmark, seed)
    rows = read_output(paths, benchmark, seed)
    if not chunks and (not output.exists() or len(rows) >= num_rows):
        return
    merged = merge_rows(rows, read_async(paths, benchmark, seed))
    lines = [json.dumps(row | {POSITION: position}) + "\n" for position, row in sorted(merged.items())]
    write_text_atomic(pending, "".join(lines))
    paths.output_done(benchmark, seed).unlink(missing_ok=True)
    output.unlink(missing_ok=True)
    for chunk in chunks:
        chunk.unlink()


def rows_done(paths: RunPaths, benchmark: str, seed: int) -> int:
    """Returns the number of rows of a seed so far."""
    return sum(
        1 for path in (paths.output(benchmark, seed), paths.output_async(benchmark, seed)) for _ in whole_lines(path)
    )


def finish_nfe(spec: JobSpec, task: TaskSpec, paths: RunPaths, rows_asked: int) -> None:
    """Writes the ledger lines of the task's samples, and the totals that follow from them into metrics.json.

    Raises WorkerError if a seed has fewer rows than were asked, or metrics.json does not cover them.
    """
    outputs = {seed: read_output(paths, task.benchmark, seed) for seed in task.seeds}
    if short := {seed: len(rows) for seed, rows in outputs.items() if len(rows) < rows_asked}:
        raise WorkerError(f"NeMo-Skills left {short} rows by seed of {task.benchmark}; asked: {rows_asked} each")
    check_metrics(paths, task, rows_asked)
    log = _read_request_log(paths.request_log(spec.index))
    known = read_run_ledger(paths.run_dir)
    ledger = Ledger(spec, paths)
    ledger.open()
    missing = 0
    benchmark = load_benchmark(task.benchmark)
    for seed, rows in outputs.items():
        keys: list[Key] = [(messages_sha256(benchmark, row), seed) for row in rows]
        left = newest_lines(log, keys)
        for position, key in enumerate(keys):
            if left.get(key):
                ledger.append(_record(spec, (task.benchmark, seed, position), left[key].pop(0)))
            elif (task.benchmark, seed, position) not in known:
                missing += 1
    ledger.close()
    if missing:
        print(f"nemo_skills: {task.benchmark}: {missing} samples have no line in the request log", flush=True)
    ours = [record for key, record in read_run_ledger(paths.run_dir).items() if key[0] == task.benchmark]
    path = paths.metrics(task.benchmark)
    metrics = json.loads(path.read_text(encoding="utf-8"))
    write_json_atomic(path, metrics | summarize(record for record in ours if record.seed in task.seeds))


def newest_lines(log: Mapping[Key, list[Row]], keys: Sequence[Key]) -> dict[Key, list[Row]]:
    """Returns the last log lines of each key, oldest first: at most as many as rows have that key."""
    return {key: log[key][-count:] for key, count in Counter(keys).items() if key in log}


def messages_sha256(benchmark: Benchmark, row: Row) -> str:
    """Returns the hash under which the balancer logs a sample: of its messages as compact JSON with sorted keys."""
    text = json.dumps(chat_messages(benchmark, row), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_request_log(path: Path) -> dict[Key, list[Row]]:
    log: dict[Key, list[Row]] = defaultdict(list)
    for text in whole_lines(path):
        line: Row = json.loads(text)
        log[str(line["prompt_sha256"]), int(str(line["seed"]))].append(line)
    return log


def _record(spec: JobSpec, key: tuple[str, int, int], line: Row) -> NfeRecord:
    benchmark, seed, position = key
    usage, reasons = line["usage"], line["finish_reasons"]
    assert isinstance(usage, dict)
    assert isinstance(reasons, list)
    return NfeRecord(
        request_id=str(line["request_id"]),
        benchmark=benchmark,
        sample_id=position,
        seed=seed,
        mode=spec.decode.mode.value,
        lora=spec.decode.lora,
        finish_reason=str(reasons[0]),
        cost=Cost.from_json(usage),
    )
