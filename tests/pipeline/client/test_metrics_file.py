"""The metrics of a benchmark from rows that may be damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.pipeline.client.metrics_file import write_metrics
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.run_folders import FakeRun, write_run
from trimode.tests.fakes.specs import task_spec


@pytest.mark.parametrize("damage", [{"num_generated_tokens": "x"}, {"symbolic_correct": "yes"}])
def test_a_damaged_finished_row_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=3)))
    output = paths.output("demo-math", 0)
    first, second, third = output.read_text().splitlines()
    output.write_text("\n".join([first, json.dumps(json.loads(second) | damage), third]) + "\n")
    task = replace(task_spec(), benchmark="demo-math")
    with pytest.raises(WorkerError, match=r"output-rs0\.jsonl: line 2 is damaged"):
        write_metrics(paths, task, 3)
