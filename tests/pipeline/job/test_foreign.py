"""Jobs that ask a running server: rows, ledger, manifest, resume and failures. No balancer is started."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from trimode.pipeline.analysis.runs import read_run
from trimode.pipeline.analysis.summary import summarize_runs
from trimode.pipeline.report.formats import as_csv
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_output
from trimode.pipeline.server.address import api_base
from trimode.pipeline.spec import JobSpec, ServerSpec
from trimode.tests.fakes.openai_server import Body, OpenAIServer, Reply, completion, failure
from trimode.tests.fakes.specs import client_spec, job_spec, start_job, task_spec, write_data

pytestmark = pytest.mark.process

NUM_ROWS = 9


def job_of(folder: Path, fake: OpenAIServer, **client: Any) -> JobSpec:
    write_data(folder / "data", NUM_ROWS)
    server = ServerSpec(url=api_base(fake.url), engine="fake")
    spec = job_spec(folder, (task_spec(limit=NUM_ROWS),), client=client_spec(server=server, **client))
    decode = dataclasses.replace(spec.decode, block_length=0, threshold=None)
    return dataclasses.replace(spec, decode=decode, model=dataclasses.replace(spec.model, path="tiny"))


def run(spec: JobSpec, folder: Path) -> tuple[int, str]:
    job = start_job(spec, folder)
    output, _ = job.communicate(timeout=120)
    return job.returncode, output


def test_a_job_leaves_what_every_job_leaves_without_nfe(tmp_path: Path) -> None:
    with OpenAIServer() as fake:
        spec = job_of(tmp_path, fake)
        status, output = run(spec, tmp_path)
    assert status == 0, output
    assert "no model is started here" in output
    paths = RunPaths(Path(spec.run_dir))
    assert all(row["symbolic_correct"] for row in read_output(paths, "gsm8k", 0))
    assert {record.cost.nfe for record in read_nfe_log(paths.nfe_log(0))} == {None}
    metrics = json.loads(paths.metrics("gsm8k").read_text())
    assert (metrics["average_nfe"], metrics["tpf"], metrics["tpf_total"]) == (None, None, None)
    manifest = json.loads(paths.manifest.read_text())
    assert manifest["server_model"] == "tiny"
    assert manifest["jobs"]["0"]["server"]["owned_by"] == "fake-engine"
    read = read_run(paths.run_dir)
    assert read.label == "linear_spec@fake"
    (row,) = summarize_runs([read])
    assert (row.accuracy, row.average_nfe, row.tpf, row.tpf_interval) == (100.0, None, None, None)
    assert row.tokens_per_second is not None
    assert re.search(r"linear_spec,False,gsm8k,9,100.0,[0-9.]+,100.0,7.0,,,,[0-9.]+,,0,0", as_csv([row]))


def test_a_job_goes_on_where_the_server_had_left_it(tmp_path: Path) -> None:
    broken = True

    def reply(body: Body) -> Reply:
        refuse = broken and "Problem 4" in body["messages"][-1]["content"]
        return failure(403, "no") if refuse else completion(body)

    with OpenAIServer(reply) as fake:
        spec = job_of(tmp_path, fake, max_concurrent_requests=1)
        status, output = run(spec, tmp_path)
        assert status != 0
        assert "HTTP 403: no" in output
        asked = len(fake.bodies)
        broken = False
        status, output = run(spec, tmp_path)
    assert status == 0, output
    assert (asked, len(fake.bodies)) == (NUM_ROWS, NUM_ROWS + 1)


def test_a_key_that_is_refused_later_ends_the_job_and_loses_nothing(tmp_path: Path) -> None:
    wrong = True

    def reply(body: Body) -> Reply:
        return failure(401, "expired") if wrong and len(fake.bodies) > 3 else completion(body)

    with OpenAIServer(reply) as fake:
        spec = job_of(tmp_path, fake, max_concurrent_requests=1)
        status, output = run(spec, tmp_path)
        assert status != 0
        assert "HTTP 401: expired; the server asks for an API key" in output
        wrong = False
        status, output = run(spec, tmp_path)
    assert status == 0, output
    assert len(fake.bodies) == NUM_ROWS + 1


def test_answers_of_another_model_are_not_mixed(tmp_path: Path) -> None:
    with OpenAIServer(models=("tiny", "other")) as fake:
        spec = job_of(tmp_path, fake)
        assert run(spec, tmp_path)[0] == 0
        more = dataclasses.replace(
            spec, model=dataclasses.replace(spec.model, path="other"), tasks=(task_spec(limit=9, seeds=(0, 1)),)
        )
        status, output = run(more, tmp_path)
    assert status != 0
    assert "server_model was tiny and is other" in output


def test_a_context_that_is_too_small_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    def listed() -> Reply:
        return 200, {"data": [{"id": "tiny", "max_model_len": 256}]}, {}

    with OpenAIServer(listed=listed) as fake:
        status, output = run(job_of(tmp_path, fake), tmp_path)
    assert status != 0
    assert "max_new_tokens leaves room for a prompt: got 256 with a context of 256" in output
    assert fake.bodies == []
