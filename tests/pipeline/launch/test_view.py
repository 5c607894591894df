"""How a job stands, from its folder and from what Slurm says of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.core.files import write_json_atomic, write_text_atomic
from trimode.pipeline.launch.living import write_plan
from trimode.pipeline.launch.owner import claim, this_process
from trimode.pipeline.launch.view import Stage, entry_of, run_dirs_below, view, views
from trimode.pipeline.run_folder.lease import Lease
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.slurm.queue import QueueEntry
from trimode.pipeline.spec import JobSpec, Requeue
from trimode.tests.fakes.sweeps import finish, jobs_of, local_jobs


@pytest.fixture
def job(tmp_path: Path) -> JobSpec:
    (tmp_path / "model").mkdir()
    [made] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar", "model.path=./model", "benchmarks=gsm8k")
    Path(made.run_dir).mkdir(parents=True)
    return made


def ran(job: JobSpec, *runs: dict[str, object]) -> None:
    write_json_atomic(RunPaths(Path(job.run_dir)).manifest, {"jobs": {"0": {"runs": list(runs)}}})


@pytest.mark.parametrize(
    ("entry", "stage", "detail"),
    [
        (QueueEntry("PENDING", "Priority"), Stage.PENDING, "Priority"),
        (QueueEntry("PENDING", "launch failed requeued held"), Stage.PENDING, "held: launch failed requeued held"),
        (QueueEntry("RUNNING", ""), Stage.RUNNING, ""),
        (QueueEntry("COMPLETING", ""), Stage.RUNNING, ""),
        (QueueEntry("TIMEOUT", "TimeLimit"), Stage.ENDED, "time limit; the same command goes on"),
        (QueueEntry("NODE_FAIL", "NodeDown"), Stage.ENDED, "node failed; the same command goes on"),
        (QueueEntry("CANCELLED", ""), Stage.ENDED, "cancelled; the same command goes on"),
        (QueueEntry("COMPLETED", ""), Stage.ENDED, "it left no marker"),
        (None, Stage.PLANNED, ""),
    ],
)
def test_states_of_slurm_in_words(job: JobSpec, entry: QueueEntry | None, stage: Stage, detail: str) -> None:
    seen = view(job, "7", entry)
    assert (seen.stage, seen.detail) == (stage, detail)


def test_a_job_of_several_nodes_says_so_and_what_it_has_lost(job: JobSpec) -> None:
    wide = dataclasses.replace(job, resources=dataclasses.replace(job.resources, num_nodes=3))
    running = QueueEntry("RUNNING", "")
    assert view(wide, "7", running).detail == "3 nodes"
    ran(job, {"status": "lost"}, {"status": "running", "lost_workers": {"n2": 8, "n3": 1}})
    assert view(wide, "7", running).detail == "run 2, 3 nodes, 8 workers lost with n2, 1 worker lost with n3"


def test_a_step_that_was_not_started_shows_what_slurm_wrote(job: JobSpec, tmp_path: Path) -> None:
    folder = tmp_path / "out" / ".submitit" / "abc"
    folder.mkdir(parents=True)
    (folder / "7_0_log.out").write_text("srun: error: task 0 launch failed: Plugin initialization failed\n")
    detail = view(job, "7", QueueEntry("COMPLETED", "")).detail
    assert detail.startswith("it left no marker; ")
    assert detail.endswith("7_0_log.out ends with:\nsrun: error: task 0 launch failed: Plugin initialization failed")


def test_a_local_job_runs_only_when_its_turn_has_come(tmp_path: Path) -> None:
    first, second = local_jobs(tmp_path)[:2]
    for each in (first, second):
        Path(each.run_dir).mkdir(parents=True, exist_ok=True)
        claim(Path(each.run_dir), this_process())
    Lease(RunPaths(Path(first.run_dir)), first.index)
    assert view(first, None, None).stage is Stage.RUNNING
    waiting = view(second, None, None)
    assert (waiting.stage, waiting.detail) == (Stage.PENDING, "it waits for the jobs before it")


def test_a_requeued_job_says_how_often(job: JobSpec) -> None:
    ran(job, {"status": "interrupted", "cause": "the job was ended by SIGUSR2"})
    assert view(job, "7", QueueEntry("PENDING", "BeginTime")).detail == "requeued 1/10, BeginTime"
    assert view(job, "7", None).detail == "the job was ended by SIGUSR2; the same command goes on"


def progress(job: JobSpec, **counts: float) -> None:
    task = {"total": 40, "done": 20, "scored": 20, "seconds": 60.0, "tokens": 9, "nfe": 3, **counts}
    write_json_atomic(RunPaths(Path(job.run_dir)).progress(0), {"gsm8k": task})


@pytest.mark.parametrize(
    ("status", "started_at", "line"),
    [
        ("running", 1_000_060, "running  20/40  20/min  TPF 3.00  ETA 1m 0s"),
        ("running", 999_990, "running  20/40"),  # these are the numbers of an earlier run
        ("completed", 1_000_060, "running  20/40  20/min  TPF 3.00  ETA 1m 0s"),
        ("interrupted", 1_000_060, "running: run 2  20/40"),  # Slurm runs it again, and it has not begun
    ],
)
def test_the_speed_is_that_of_the_present_run(job: JobSpec, status: str, started_at: float, line: str) -> None:
    ran(job, {"status": status, "start": "1970-01-12T13:46:40+00:00"})  # after 1,000,000 seconds
    progress(job, started_at=started_at)
    assert view(job, "7", QueueEntry("RUNNING", "")).line() == line


def test_a_job_that_was_submitted_after_the_last_run_is_not_requeued(job: JobSpec) -> None:
    ran(job, {"status": "completed", "start": "1970-01-12T13:46:40+00:00", "slurm_job": "6_0"})
    progress(job, started_at=1_000_060, total=20)
    asked = sum(task.num_requests for task in job.tasks)
    assert view(job, "7_0", QueueEntry("PENDING", "")).line() == f"pending  20/{asked}"
    assert view(job, "6_0", QueueEntry("PENDING", "")).line() == "pending: requeued 1/10  20/20"
    assert view(job, "7_0", QueueEntry("RUNNING", "")).line() == f"running  20/{asked}"
    assert "20/min" in view(job, "6_0", QueueEntry("RUNNING", "")).line()


def test_a_run_without_a_time_hides_no_speed(job: JobSpec) -> None:
    progress(job, started_at=5.0)
    assert "20/min" in view(job, "7", QueueEntry("RUNNING", "")).line()
    ran(job, {"status": "running", "start": "soon"})
    assert "20/min" in view(job, "7", QueueEntry("RUNNING", "")).line()


def test_a_preempted_job_waits_to_run_again(job: JobSpec) -> None:
    ran(job, {"status": "interrupted", "cause": "the job was ended by SIGTERM"})
    assert view(job, "7", QueueEntry("PENDING", "BeginTime")).detail == "preempted, BeginTime"
    assert view(job, "7", QueueEntry("PREEMPTED", "")).detail == "preempted; the same command goes on"


def test_a_chain_is_one_job_and_its_living_array_counts(
    tmp_path: Path, job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(Path(job.run_dir), [], [(job, "7"), (job, "8"), (job, "9")])
    told = {"7": QueueEntry("TIMEOUT", "TimeLimit"), "8": QueueEntry("RUNNING", ""), "9": QueueEntry("PENDING", "Dep")}
    monkeypatch.setattr("trimode.pipeline.launch.view.queue_entries", lambda _ids: told)
    monkeypatch.setattr("trimode.pipeline.launch.view.ended_states", lambda _ids: {})
    [seen] = views(run_dirs_below(tmp_path / "out"))
    assert (seen.job_id, seen.follow_ups, seen.stage) == ("7", ("8", "9"), Stage.RUNNING)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("COMPLETED", "CANCELLED", "CANCELLED"), "COMPLETED"),
        (("FAILED", "TIMEOUT", "CANCELLED"), "TIMEOUT"),
        (("CANCELLED", "CANCELLED"), "CANCELLED"),
        (("FAILED", "PENDING", "PENDING"), "PENDING"),
        ((), None),
    ],
)
def test_what_slurm_says_of_a_chain(states: tuple[str, ...], expected: str | None) -> None:
    ids = [str(number) for number in range(len(states))]
    entry = entry_of(ids, {job_id: QueueEntry(state, "") for job_id, state in zip(ids, states, strict=True)})
    assert (None if entry is None else entry.state) == expected


def test_markers_count_once_the_job_is_over(job: JobSpec) -> None:
    paths = RunPaths(Path(job.run_dir))
    finish(job)
    assert view(job, "7", QueueEntry("COMPLETED", "")).stage is Stage.COMPLETED
    assert view(job, "7", QueueEntry("RUNNING", "")).stage is Stage.RUNNING
    paths.completed(0).unlink()
    write_text_atomic(paths.failed(0), "now\nCause: WorkerError: line one\nline two\n\n--- end of x.log\nnoise\n")
    seen = view(job, "7", QueueEntry("FAILED", ""))
    assert (seen.stage, seen.detail) == (Stage.FAILED, "WorkerError: line one\nline two")
    assert "line one [...]" in seen.line()


def test_samples_speed_and_time_left(job: JobSpec) -> None:
    task = {"total": 100, "done": 40, "scored": 20, "seconds": 60.0, "tokens": 300, "nfe": 100}
    path = RunPaths(Path(job.run_dir)).progress(0)
    path.parent.mkdir()
    path.write_text(json.dumps({"gsm8k": task}))
    line = view(job, "7", QueueEntry("RUNNING", "")).line()
    assert line == "running  40/100  20/min  TPF 3.00  ETA 3m 0s"
    path.write_text("{")
    assert view(job, "7", QueueEntry("RUNNING", "")).line() == "running  0/1319"


def test_all_jobs_below_a_folder_with_one_question(
    tmp_path: Path, job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def entries(ids: object) -> dict[str, QueueEntry]:
        asked.append(list(ids))  # type: ignore[call-overload]
        return {"7": QueueEntry("PENDING", "Resources")}

    monkeypatch.setattr("trimode.pipeline.launch.view.queue_entries", entries)
    monkeypatch.setattr(
        "trimode.pipeline.launch.view.ended_states", lambda ids: {"8": "CANCELLED by me, 2026-11-26"} if [*ids] else {}
    )
    second, third = (dataclasses.replace(job, index=index) for index in (1, 2))
    write_plan(Path(job.run_dir), [], [(job, "7"), (second, "8"), (third, None)])
    seen = views(run_dirs_below(tmp_path / "out"))
    assert [(item.job_id, item.stage) for item in seen] == [
        ("7", Stage.PENDING), ("8", Stage.ENDED), (None, Stage.PLANNED)
    ]  # fmt: skip
    assert seen[1].detail == "cancelled by me, 2026-11-26; the same command goes on"
    assert asked == [["7", "8"]]


def test_slurms_accounting_says_who_cancelled_and_squeue_may_be_away(
    tmp_path: Path, job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(Path(job.run_dir), [], [(job, "7"), (dataclasses.replace(job, index=1), "8")])
    told = {"7": QueueEntry("CANCELLED", ""), "8": QueueEntry("FAILED", "NonZeroExitCode")}
    accounts = {"7": "CANCELLED by me, 2026-11-26", "8": "COMPLETED"}
    monkeypatch.setattr("trimode.pipeline.launch.view.queue_entries", lambda _ids: dict(told))
    monkeypatch.setattr(
        "trimode.pipeline.launch.view.ended_states", lambda ids: {job_id: accounts[job_id] for job_id in ids}
    )
    details = [item.detail for item in views(run_dirs_below(tmp_path / "out"))]
    assert details == ["cancelled by me, 2026-11-26; the same command goes on", "failed; the same command goes on"]
    monkeypatch.setattr("trimode.pipeline.launch.view.ended_states", lambda _ids: {"7": "TIMEOUT"})
    assert views(run_dirs_below(tmp_path / "out"))[0].detail == "cancelled; the same command goes on"

    def away(_ids: object) -> dict[str, QueueEntry]:
        raise WorkerError("squeue does not answer")

    monkeypatch.setattr("trimode.pipeline.launch.view.queue_entries", away)
    monkeypatch.setattr("trimode.pipeline.launch.view.ended_states", lambda _ids: {})
    assert [item.stage for item in views(run_dirs_below(tmp_path / "out"))] == [Stage.PLANNED, Stage.PLANNED]


def test_a_later_array_of_a_chain_goes_on_with_the_run_of_the_first(job: JobSpec) -> None:
    chain = dataclasses.replace(job, resources=dataclasses.replace(job.resources, requeue=Requeue.chain))
    ran(chain, {"status": "interrupted", "cause": "the job was ended by SIGUSR2", "slurm_job": "7"})
    assert view(chain, "6", QueueEntry("PENDING", "Dependency")).detail == "requeued 1/10, Dependency"
    assert view(job, "6", QueueEntry("PENDING", "Dependency")).detail == "Dependency"


def test_folders_of_submissions_are_no_run_folders(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / ".submitit" / "abc"):
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text("{}")
    assert run_dirs_below(tmp_path) == [tmp_path / "run"]
