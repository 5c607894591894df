"""The progress of evaluate.py counts a row as right by the same rule as report and compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.client.samples import LoadedTask
from trimode.pipeline.in_process.run import TaskProgressLines
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.scoring.verdicts import is_right
from trimode.tests.fakes.specs import task_spec


@pytest.mark.parametrize("metric", ["average_score", "prompt_loose_accuracy", "instruction_loose_accuracy"])
@pytest.mark.parametrize("strict", [True, False])
def test_instructions_count_strictly_in_every_metric(tmp_path: Path, metric: str, strict: bool) -> None:
    benchmark = replace(load_benchmark("ifeval"), metric=metric)
    verdicts = {
        f"{name}_eval": {"follow_all_instructions": followed, "follow_instruction_list": [followed]}
        for name, followed in (("strict", strict), ("loose", True))
    }
    row = {"instruction_id_list": ["a"], **verdicts}
    paths = RunPaths(tmp_path)
    paths.output("ifeval", 0).parent.mkdir(parents=True)
    paths.output("ifeval", 0).write_text(json.dumps(row) + "\n")
    task = replace(task_spec(), benchmark="ifeval")
    loaded = LoadedTask(task=task, benchmark=benchmark, all_rows=[{}], rows_asked=1, finished={0: {0}})
    assert TaskProgressLines(loaded, paths, print_every=1).counts.correct == is_right(benchmark, row) == strict
