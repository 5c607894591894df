"""The progress of evaluate.py shows the same accuracy as its summary and the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.client.tasks import LoadedTask
from trimode.pipeline.in_process.run import TaskProgressLines
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.tests.fakes.specs import task_spec


@pytest.mark.parametrize("metric", ["average_score", "prompt_loose_accuracy", "instruction_loose_accuracy"])
@pytest.mark.parametrize("strict", [True, False])
def test_progress_shows_the_metric_that_the_report_shows(tmp_path: Path, metric: str, strict: bool) -> None:
    benchmark = replace(load_benchmark("ifeval"), metric=metric)
    rows = []
    for followed in ([strict, True], [False]):
        verdicts = {
            f"{kind}_eval": {"follow_all_instructions": all(got), "follow_instruction_list": got}
            for kind, got in (("strict", followed), ("loose", [True] * len(followed)))
        }
        rows.append({"instruction_id_list": ["a"] * len(followed), **verdicts})
    paths = RunPaths(tmp_path)
    paths.output("ifeval", 0).parent.mkdir(parents=True)
    paths.output("ifeval", 0).write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = replace(task_spec(), benchmark="ifeval")
    loaded = LoadedTask(task=task, benchmark=benchmark, all_rows=[{}, {}], rows_asked=2, finished={0: {0, 1}})
    shown = TaskProgressLines(loaded, paths, print_every=1).counts.text()
    reported = compute_metrics(benchmark, [rows])["ifeval"]["pass@1"][metric]
    assert shown.startswith(f"acc={reported:.2f}% ")
