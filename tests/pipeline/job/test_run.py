"""Jobs in processes of their own against the fake balancer: markers, resume, signals, kills, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.nfe import NfeRecord, read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import remaining
from trimode.pipeline.run_folder.rows import read_output, read_rows
from trimode.pipeline.spec import Device, Executor, JobSpec, ResourceSpec
from trimode.tests.fakes.specs import client_spec, job_spec, start_job, task_spec, write_data

pytestmark = pytest.mark.process

TIMES = {"generation_start_time", "generation_end_time", "generation_time"}
PATIENCE_S = 60.0


def run(spec: JobSpec, folder: Path, behaviour: dict[str, object] | None = None) -> tuple[int, str]:
    job = start_job(spec, folder, behaviour)
    output, _ = job.communicate(timeout=PATIENCE_S)
    return job.returncode, output


def paths_of(spec: JobSpec) -> RunPaths:
    return RunPaths(Path(spec.run_dir))


def rows_of(spec: JobSpec, seed: int = 0) -> list[Row]:
    rows = read_output(paths_of(spec), "gsm8k", seed)
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def ledger_of(spec: JobSpec) -> list[NfeRecord]:
    return sorted(read_nfe_log(paths_of(spec).nfe_log(spec.index)), key=lambda record: record.key)


def processes_naming(text: str) -> list[int]:
    """Processes whose command line contains `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def wait_for_rows(spec: JobSpec, job: subprocess.Popen[str], count: int) -> None:
    """Until `count` samples are stored, or the job is over."""

    def enough() -> bool:
        stored = sum(len(read_rows(paths_of(spec), "gsm8k", seed)) for seed in spec.tasks[0].seeds)
        return stored >= count or job.poll() is not None

    wait_for(enough, f"{count} rows")


def assert_ledger_equals_rows(spec: JobSpec) -> None:
    """One line per row, and the same tokens."""
    rows = {(seed, index): row for seed in spec.tasks[0].seeds for index, row in enumerate(rows_of(spec, seed))}
    ledger = {(record.seed, record.sample_id): record for record in ledger_of(spec)}
    assert len(ledger) == len(ledger_of(spec))
    assert ledger.keys() == rows.keys()
    assert all(ledger[key].cost.completion_tokens == rows[key]["num_generated_tokens"] for key in rows)


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    write_data(tmp_path / "data", 40)
    return job_spec(tmp_path, (task_spec(limit=20, seeds=(0, 1)),))


def test_job_leaves_the_whole_tree(spec: JobSpec, tmp_path: Path) -> None:
    status, output = run(spec, tmp_path)
    assert status == 0, output
    paths = paths_of(spec)
    assert paths.completed(0).exists()
    assert not paths.failed(0).exists()
    assert paths.server_info(0).stat().st_mode & 0o777 == 0o600
    assert 'SERVER_STATUS="stopped"' in paths.server_info(0).read_text()
    assert paths.pipeline_log(0).read_text() == output
    assert processes_naming(spec.run_dir) == []
    metrics = json.loads(paths.metrics("gsm8k").read_text())
    assert metrics["gsm8k"]["pass@1[avg-of-2]"]["num_entries"] == 20
    assert metrics["nfe_count"] == 40
    assert metrics["average_nfe"] == round(sum(record.cost.nfe for record in ledger_of(spec)) / 40, 4)
    assert len(rows_of(spec, 0)) == len(rows_of(spec, 1)) == 20
    assert_ledger_equals_rows(spec)


def test_a_completed_job_removes_its_own_journals(spec: JobSpec, tmp_path: Path) -> None:
    journal = paths_of(spec).journal
    journal.mkdir(parents=True)
    for name in ("group0_host_1_a.jsonl", "group0_host_1_a.tmp", "group1_host_2_b.jsonl"):
        (journal / name).write_text("")
    assert run(spec, tmp_path)[0] == 0
    assert [path.name for path in journal.iterdir()] == ["group1_host_2_b.jsonl"]
    (journal / "group1_host_2_b.jsonl").rename(journal / "group0_host_1_a.jsonl")
    assert run(spec, tmp_path)[0] == 0
    assert not journal.exists()


def test_the_key_of_a_run_is_new_and_nowhere_to_be_read(spec: JobSpec, tmp_path: Path) -> None:
    keys = []
    for number in range(2):
        note = tmp_path / f"key{number}"
        job = start_job(spec, tmp_path, {"key_file": str(note), "delay_s": 0.05})
        wait_for(lambda note=note: note.exists() and note.read_text(), "the key")
        keys.append(note.read_text())
        assert len(keys[-1]) >= 43
        assert processes_naming(keys[-1]) == []
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=PATIENCE_S)
    assert keys[0] != keys[1]
    files = [path for path in Path(spec.run_dir).rglob("*") if path.is_file()]
    assert not [path for path in files for key in keys if key.encode() in path.read_bytes()]


def test_row_has_nemo_skills_fields(spec: JobSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    row = read_output(paths_of(spec), "gsm8k", 0)[3]
    assert row["expected_answer"] == 21
    assert row["finish_reason"] == "stop"
    assert row["serialized_output"] == [
        {"content": row["generation"], "role": "assistant", "tool_calls": None, "function_call": None}
    ]
    assert row.keys() > TIMES
    assert {"predicted_answer", "symbolic_correct", "num_generated_tokens", "problem"} < row.keys()
    assert not {"_async_position", "_nfe", "error"} & row.keys()


def test_second_run_asks_nobody(spec: JobSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    before = paths_of(spec).output("gsm8k", 0).read_bytes(), paths_of(spec).nfe_log(0).read_bytes()
    status, output = run(spec, tmp_path, {"fail_start": "must not start"})
    assert status == 0, output
    assert "every sample is finished" in output
    assert (paths_of(spec).output("gsm8k", 0).read_bytes(), paths_of(spec).nfe_log(0).read_bytes()) == before


def test_larger_limit_keeps_finished_rows(spec: JobSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    first = read_output(paths_of(spec), "gsm8k", 0)
    larger = dataclasses.replace(spec, tasks=(task_spec(limit=30, seeds=(0, 1)),))
    assert remaining(larger) == {("gsm8k", 0): 10, ("gsm8k", 1): 10}
    status, output = run(larger, tmp_path)
    assert status == 0, output
    assert read_output(paths_of(spec), "gsm8k", 0)[:20] == first
    assert len(rows_of(larger)) == 30
    assert_ledger_equals_rows(larger)


def test_smaller_limit_says_what_is_there(spec: JobSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    smaller = dataclasses.replace(spec, tasks=(task_spec(limit=5, seeds=(0, 1)),))
    status, output = run(smaller, tmp_path)
    assert status == 0, output
    assert "5 samples per seed asked, 20 are finished" in output
    assert len(rows_of(spec)) == 20


def test_refused_sample_is_kept_named_and_final(spec: JobSpec, tmp_path: Path) -> None:
    status, output = run(spec, tmp_path, {"refuse": "Problem 4:"})
    assert status == 0, output
    assert "no answer: gsm8k seed 0 sample 4: HTTP 400: refused on purpose" in output
    row = rows_of(spec)[4]
    assert (row["generation"], row["symbolic_correct"], row["finish_reason"]) == ("", False, "error")
    assert len(rows_of(spec)) == 20
    assert [record.finish_reason for record in ledger_of(spec) if record.sample_id == 4] == ["error", "error"]
    assert not any(remaining(spec).values())


def test_a_job_whose_samples_were_all_refused_fails_each_time(spec: JobSpec, tmp_path: Path) -> None:
    for behaviour in ({"refuse": "Problem"}, {"fail_start": "must not start"}):
        status, output = run(spec, tmp_path, dict(behaviour))
        assert status != 0
        record = paths_of(spec).failed(0).read_text()
        assert "gsm8k: none of 40 samples has an answer; the first: HTTP 400: refused on purpose" in record
        assert "no answer: gsm8k seed 0 sample 0: HTTP 400" in output
        assert "no answer: 30 more" in output
        assert not paths_of(spec).completed(0).exists()
        assert not paths_of(spec).metrics("gsm8k").exists()


def test_answers_that_cannot_fit_the_checkpoint_are_refused_before_the_first_request(
    spec: JobSpec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(spec, decode=dataclasses.replace(spec.decode, max_new_tokens=4096))
    status, _ = run(spec, tmp_path)
    assert status != 0
    assert (
        "max_new_tokens leaves room for a prompt: got 4096 with a context of 4096"
        in paths_of(spec).failed(0).read_text()
    )
    assert not paths_of(spec).output_async("gsm8k", 0).exists()


def test_a_damaged_row_costs_itself_only(spec: JobSpec, tmp_path: Path) -> None:
    path = tmp_path / "data" / "gsm8k" / "test.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = rb'{"problem": "cut emoji \ud83d", "expected_answer": 21}' + b"\n"
    lines[5] = b"[" * 100_000 + b"\n"
    path.write_bytes(b"".join(lines))
    status, output = run(spec, tmp_path)
    assert status == 0, output
    assert "no answer: gsm8k seed 0 sample 3: row 4 of the data has a prompt that is no valid Unicode" in output
    rows = rows_of(spec)
    assert [position for position, row in enumerate(rows) if "error" in row] == [3, 5]
    assert [row["num_generated_tokens"] for row in rows].count(0) == 2
    metrics = json.loads(paths_of(spec).metrics("gsm8k").read_text())
    assert (metrics["failed"], metrics["nfe_count"]) == (4, 40)
    assert run(spec, tmp_path, {"fail_start": "must not start"})[0] == 0


def test_dead_balancer_fails_the_job_and_keeps_what_is_done(spec: JobSpec, tmp_path: Path) -> None:
    status, output = run(spec, tmp_path, {"die_after": 15})
    assert status != 0
    record = paths_of(spec).failed(0).read_text()
    assert "ServerEnded: the balancer was killed by SIGKILL" in record
    assert "JobFailed" in output
    assert 'SERVER_STATUS="failed"' in paths_of(spec).server_info(0).read_text()
    assert not paths_of(spec).completed(0).exists()
    stored = len(read_rows(paths_of(spec), "gsm8k", 0))
    assert 10 <= stored < 15
    status, output = run(spec, tmp_path)
    assert status == 0, output
    assert not paths_of(spec).failed(0).exists()
    assert f"gsm8k: {stored}/40" in output
    assert_ledger_equals_rows(spec)


def test_balancer_that_cannot_start_is_quoted(spec: JobSpec, tmp_path: Path) -> None:
    status, _ = run(spec, tmp_path, {"fail_start": "checkpoint lacks model.safetensors"})
    assert status != 0
    record = paths_of(spec).failed(0).read_text()
    assert "the balancer ended with status 3" in record
    assert "checkpoint lacks model.safetensors" in record


def test_missing_data_fails_with_the_remedy(tmp_path: Path) -> None:
    spec = job_spec(tmp_path)
    status, _ = run(spec, tmp_path)
    assert status != 0
    assert "ConfigError" in paths_of(spec).failed(0).read_text()


def test_job_that_asked_for_gpus_and_sees_none_fails(spec: JobSpec, tmp_path: Path) -> None:
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("needs a machine without a GPU")
    resources = ResourceSpec(
        cluster="local", executor=Executor.local, device=Device.auto, num_gpus=2, num_workers=None, time_limit_min=1
    )
    run(dataclasses.replace(spec, resources=resources), tmp_path)
    assert "asked for 2 GPU(s) and sees none" in paths_of(spec).failed(0).read_text()


def test_other_weights_are_refused(spec: JobSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    more = dataclasses.replace(spec, tasks=(task_spec(limit=25, seeds=(0, 1)),))
    status, _ = run(more, tmp_path, {"weights": "w1"})
    assert status != 0
    assert "weights_sha256 was w0 and is w1" in paths_of(spec).failed(0).read_text()
    assert len(rows_of(spec)) == 20


def test_other_data_is_refused(spec: JobSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    write_data(tmp_path / "data", 41)
    status, _ = run(spec, tmp_path)
    assert status != 0
    assert "data.gsm8k.sha256" in paths_of(spec).failed(0).read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signal_leaves_a_record_and_no_process(spec: JobSpec, tmp_path: Path, signum: signal.Signals) -> None:
    job = start_job(spec, tmp_path, {"delay_s": 0.05})
    wait_for_rows(spec, job, 6)
    job.send_signal(signum)
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode != 0
    record = paths_of(spec).failed(0).read_text()
    assert f"the job was ended by {signum.name}" in record, output
    assert "gsm8k: 0/40" in record
    assert 'SERVER_STATUS="failed"' in paths_of(spec).server_info(0).read_text()
    assert processes_naming(spec.run_dir) == []


def test_signal_while_the_workers_start_leaves_a_record(spec: JobSpec, tmp_path: Path) -> None:
    job = start_job(spec, tmp_path, {"start_s": 60})
    wait_for(lambda: 'STATUS="starting"' in _text(paths_of(spec).server_info(0)), "the balancer")
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=PATIENCE_S)
    assert "SIGTERM" in paths_of(spec).failed(0).read_text()
    assert processes_naming(spec.run_dir) == []


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_points_and_repeated_equals_an_uninterrupted_run(
    spec: JobSpec, tmp_path: Path, seed: int
) -> None:
    calm = dataclasses.replace(spec, run_dir=str(tmp_path / "calm"))
    assert run(calm, tmp_path)[0] == 0
    chance = random.Random(seed)
    for _ in range(3):
        job = start_job(spec, tmp_path, {"delay_s": 0.01})
        wait_for_rows(spec, job, chance.randrange(41))
        time.sleep(chance.random() * 0.02)
        os.kill(job.pid, signal.SIGKILL)
        job.communicate(timeout=PATIENCE_S)
        wait_for(lambda: processes_naming(spec.run_dir) == [], "the balancer's end")
    status, output = run(spec, tmp_path)
    assert status == 0, output
    for number in (0, 1):
        assert rows_of(spec, number) == rows_of(calm, number)
    assert [(record.key, record.cost.nfe) for record in ledger_of(spec)] == [
        (record.key, record.cost.nfe) for record in ledger_of(calm)
    ]
    assert_ledger_equals_rows(spec)


def test_concurrency_never_exceeds_the_limit_of_the_client(spec: JobSpec, tmp_path: Path) -> None:
    log = tmp_path / "most"
    limited = dataclasses.replace(spec, client=client_spec(max_concurrent_requests=3))
    status, output = run(limited, tmp_path, {"delay_s": 0.01, "most_file": str(log)})
    assert status == 0, output
    assert log.read_text() == "3"
