"""What earlier runs in an output folder have measured: how long they took to start, and the speed of their workers.

It stands in the manifests of run folders. Of a run that still goes on, or was killed, the job's progress file has it.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trimode.pipeline.console.progress import read_snapshot
from trimode.pipeline.run_folder.nfe import is_count
from trimode.pipeline.run_folder.paths import RunPaths

CONTENT = frozenset({"weights", "adapter", "tokenizer", "prompts", "starting_seed", "top_p"})
"""What of a run's identity changes its answers and hardly its speed."""
SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""What of a model's config.json decides its speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one run did of one benchmark."""

    samples: int
    worked_s: float
    """Seconds that workers spent on them, added up over the samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One run of one job."""

    identity: Mapping[str, object]
    """Of its run folder."""
    key: tuple[object, ...]
    """What runs of the same speed share (`speed_key`)."""
    num_workers: int
    slots: int
    """Requests that a worker decodes together."""
    on_gpu: bool
    startup_s: float
    """From the start of the process to the first sample."""
    serving_s: float
    finish_s: float
    """From the last sample to the end."""
    tasks: Mapping[str, Work]

    @property
    def worked_s(self) -> float:
        """Seconds that workers spent on samples of all benchmarks."""
        return sum(work.worked_s for work in self.tasks.values())


def measured_runs(out_dir: Path) -> list[MeasuredRun]:
    """Returns every run in the run folders of an output folder that has measured something."""
    return [run for path in sorted(out_dir.glob("*/hf_base/eval_*/manifest.json")) for run in _runs(path)]


def _runs(path: Path) -> Iterator[MeasuredRun]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        jobs = {str(name): job for name, job in manifest["jobs"].items()}
        identity = dict(manifest["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # what is wrong with a manifest is said by the job, which writes it
    for number, job in jobs.items():
        try:
            runs, model = list(job["runs"]), str(job["config"]["model"]["path"])
            for run in runs:
                times = run.get("measured")
                if times is None and run is runs[-1] and number.isdigit():
                    times = _unfinished(RunPaths(path.parent), int(number), str(run["start"]))
                if times is not None:
                    yield _run(identity, model, run, times)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # of an earlier release, or damaged


def _run(
    identity: dict[str, object], model: str, run: Mapping[str, object], times: Mapping[str, object]
) -> MeasuredRun:
    devices, slots, tasks = run["devices"], run["max_num_seqs"], times["tasks"]
    seconds = [times[name] for name in ("startup_s", "serving_s", "finish_s")]
    if not (isinstance(devices, list) and devices and isinstance(slots, int) and isinstance(tasks, dict)):
        raise ValueError("no devices, slots or tasks")
    startup_s, serving_s, finish_s = (float(value) for value in seconds if is_count(value))
    works = {
        str(name): Work(samples=int(task["samples"]), worked_s=float(task["worked_s"])) for name, task in tasks.items()
    }
    return MeasuredRun(
        identity=identity,
        key=speed_key(identity, model),
        num_workers=len(devices),
        slots=slots,
        on_gpu=str(devices[0]).startswith("cuda"),
        startup_s=startup_s,
        serving_s=serving_s,
        finish_s=finish_s,
        tasks={name: work for name, work in works.items() if work.samples > 0 and work.worked_s > 0},
    )


def _unfinished(paths: RunPaths, group: int, start: str) -> dict[str, object] | None:
    """Returns the times of a run without an end, from what it last wrote down; its end counts as taking no time."""
    began = datetime.datetime.fromisoformat(start).timestamp()
    known = read_snapshot(paths.progress(group))
    snapshot = {name: task for name, task in known.items() if task.scored and task.asked_at >= began}
    if not snapshot:
        return None
    first = min(task.asked_at for task in snapshot.values())
    last = max(task.answered_at for task in snapshot.values())
    tasks = {name: {"samples": task.scored, "worked_s": task.worked_s} for name, task in snapshot.items()}
    return {"startup_s": first - began, "serving_s": last - first, "finish_s": 0.0, "tasks": tasks}


def speed_key(identity: Mapping[str, object], model: str) -> tuple[object, ...]:
    """Returns what two runs share if they have the same speed: decoding, precision, and the size of the model."""
    decoding = tuple(sorted((name, repr(value)) for name, value in plain(identity).items() if name not in CONTENT))
    return (model_shape(model), *decoding)


def plain(identity: Mapping[str, object]) -> dict[str, object]:
    """Returns an identity as a manifest holds it: names in place of enumerations."""
    value: dict[str, object] = json.loads(json.dumps(dict(identity)))
    return value


@functools.cache
def model_shape(model: str) -> object:
    """Returns the sizes in a model folder's config.json; for a hub id, and for a folder without them, its name."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        sizes = tuple(config.get(name) for name in SHAPE)
    except (OSError, ValueError, AttributeError):
        return model
    return sizes if any(size is not None for size in sizes) else model
