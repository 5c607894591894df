"""Submission against a fake Slurm: what sbatch gets, what is told, who owns the folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from trimode.core.errors import SubmissionError, WorkerError
from trimode.pipeline.launch import submit
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.outcome import is_completed
from trimode.pipeline.launch.owner import claim, read_owner, this_process
from trimode.pipeline.launch.submit import Again, Submitted, wait
from trimode.pipeline.launch.view import Stage, view
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import Call, planned, read_call, submissions
from trimode.pipeline.slurm.arrays import submission_dir
from trimode.pipeline.slurm.queue import QueueEntry
from trimode.pipeline.slurm.script import sbatch_text
from trimode.pipeline.spec import JobSpec
from trimode.tests.fakes.sweeps import finish, jobs_of

pytestmark = pytest.mark.process


def submit_arrays(jobs: Sequence[JobSpec], launcher: Launcher) -> list[Submitted]:
    done: list[Submitted] = []
    submit.submit_arrays(jobs, launcher, done)
    return done


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sbatch and srun in it; sbatch keeps script and environment, and counts ids from 101."""
    folder = tmp_path / "bin"
    folder.mkdir()
    sbatch = f"""#!/bin/sh
case $(cat "$1") in *wanted-elsewhere*)
  echo "sbatch: error: invalid partition specified: wanted-elsewhere" >&2; exit 1 ;;
esac
n=$((101 + $(ls {folder} | grep -c '^script'))); cp "$1" {folder}/script$n; env > {folder}/env$n
echo "Submitted batch job $n"
"""
    for name, text in (("sbatch", sbatch), ("srun", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_one_array_gets_the_text_of_the_dry_run(tmp_path: Path, slurm: Path) -> None:
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out")
    submitted = submit_arrays(jobs, Launcher(this_process()))
    assert [item.job_id for item in submitted] == ["101_0", "101_1", "101_2"]
    assert (slurm / "script101").read_text() == sbatch_text(jobs)


def test_a_single_job_is_no_array(tmp_path: Path, slurm: Path) -> None:
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar")
    assert [item.job_id for item in submit_arrays(jobs, Launcher(this_process()))] == ["101"]
    assert (slurm / "script101").read_text() == sbatch_text(jobs)


def test_a_chain_waits_for_the_failure_of_all_arrays_before(tmp_path: Path, slurm: Path) -> None:
    chain = ("cluster.requeue=chain", "cluster.max_requeues=2")
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out", *chain)
    owner = this_process()
    claim(Path(jobs[0].run_dir), owner)
    submitted = submit_arrays(jobs, Launcher(owner))
    assert [item.job_ids for item in submitted] == [(f"101_{n}", f"102_{n}", f"103_{n}") for n in range(3)]
    first, second, third = ((slurm / f"script{number}").read_text() for number in (101, 102, 103))
    assert first == sbatch_text(jobs)
    assert "#SBATCH --no-requeue" in first and "--dependency" not in first and "TRIMODE_LINK=" not in first
    assert "#SBATCH --dependency=afternotok:101\n" in second and "export TRIMODE_LINK=1\n" in second
    assert "#SBATCH --dependency=afternotok:101:102\n" in third and "export TRIMODE_LINK=2\n" in third
    assert "#SBATCH --kill-on-invalid-dep=yes" in third and 'show job "102${SLURM_ARRAY_TASK_ID:+_' in third
    taken = read_owner(Path(jobs[0].run_dir))
    assert taken is not None and taken.slurm_jobs == ("101_0", "102_0", "103_0")
    [kept] = submissions(tmp_path / "out")
    assert kept.runs[1] == ("101_1", "102_1", "103_1")
    assert [(row["index"], row["slurm_job_id"]) for row in planned(Path(jobs[1].run_dir))["jobs"]] == [  # type: ignore[attr-defined]
        (0, "101_1"), (0, "102_1"), (0, "103_1")
    ]  # fmt: skip


def test_a_chain_that_sbatch_cuts_short_is_submitted_as_far_as_it_goes(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch = slurm / "sbatch"
    refusal = f'#!/bin/sh\nif [ -e {slurm}/script102 ]; then echo "sbatch: error: too many" >&2; exit 1; fi\n'
    sbatch.write_text(sbatch.read_text().replace("#!/bin/sh\n", refusal))
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar", "cluster.requeue=chain")
    assert [item.job_ids for item in submit_arrays(jobs, Launcher(this_process()))] == [("101", "102")]
    assert "the chain of 101 ends after 2 arrays" in capsys.readouterr().err


@pytest.mark.usefixtures("slurm")
def test_each_job_has_its_own_call(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out")
    owner = this_process()
    launcher = Launcher(owner)
    for number, item in enumerate(submit_arrays(jobs, launcher)):
        call = read_call(submission_dir(jobs), number)
        assert call == Call(spec=item.spec, token=owner.token, function=launcher.function)


def test_an_enclosing_jobs_variables_do_not_reach_sbatch(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "night")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    submit_arrays(jobs_of(tmp_path, "cluster=bare", "out_dir=out"), Launcher(this_process()))
    environment = (slurm / "env101").read_text().splitlines()
    assert "SLURM_CONF=/etc/there" in environment
    assert not [line for line in environment if line.startswith("SBATCH_")]


@pytest.mark.usefixtures("slurm")
def test_a_refusal_carries_sbatchs_words_the_script_and_what_went_before(tmp_path: Path) -> None:
    first = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar")
    bad = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=dlm", "cluster.partition=wanted-elsewhere")
    owner = this_process()
    for job in (*first, *bad):
        claim(Path(job.run_dir), owner)
    with pytest.raises(SubmissionError) as error:
        submit_arrays([*first, *bad], Launcher(owner))
    refused = "sbatch refused the jobs: invalid partition specified: wanted-elsewhere"
    assert str(error.value).splitlines()[0] == refused
    assert "what to do: bash eval.sh --doctor" in str(error.value)
    assert "already submitted: 101" in str(error.value)
    assert error.value.script == sbatch_text(bad)
    taken = read_owner(Path(first[0].run_dir))
    assert taken is not None and taken.slurm_jobs == ("101",)


@pytest.mark.usefixtures("slurm")
def test_a_refusal_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=dlm", "cluster.partition=wanted-elsewhere")
    with pytest.raises(SubmissionError, match="invalid partition"):
        submit_arrays(bad, Launcher(this_process()))
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("slurm")
def test_a_submission_keeps_what_was_typed(tmp_path: Path) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar")
    submit_arrays([job], Launcher(this_process(), command="bash eval.sh --mode ar"))
    [entry] = planned(Path(job.run_dir))["jobs"]  # type: ignore[misc]
    assert entry["command"] == "bash eval.sh --mode ar"


@pytest.mark.usefixtures("slurm")
def test_folders_belong_to_the_slurm_jobs_that_write_there(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar", "jobs_per=benchmark", "benchmarks='gsm8k,mbpp'")
    owner = this_process()
    claim(Path(jobs[0].run_dir), owner)
    submit_arrays(jobs, Launcher(owner))
    taken = read_owner(Path(jobs[0].run_dir))
    assert taken is not None and taken.slurm_jobs == ("101_0", "101_1")


@pytest.mark.usefixtures("slurm")
def test_what_became_of_a_job_before_is_not_what_became_of_it_now(tmp_path: Path) -> None:
    job, other = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=[ar,dlm]")
    for spec in (job, other):
        paths = RunPaths(Path(spec.run_dir))
        finish(spec)
        paths.failed(spec.index).write_text("now\nCause: an old one\n")
        for marker in (paths.failed(spec.index), paths.completed(spec.index)):
            os.utime(marker, (1e9, 1e9))
    [item] = submit_arrays([job], Launcher(this_process()))
    cancelled = QueueEntry("CANCELLED", "")
    assert view(job, item.job_id, cancelled).line().startswith("ended: cancelled; the same command goes on")
    assert not is_completed(job)
    assert view(other, None, None).stage is Stage.COMPLETED, "it was not submitted again"


def test_a_marker_of_a_job_that_starts_at_once_stays(tmp_path: Path, slurm: Path) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar")
    failed = RunPaths(Path(job.run_dir)).failed(job.index)
    failed.parent.mkdir(parents=True)
    text = (slurm / "sbatch").read_text()
    (slurm / "sbatch").write_text(f"{text}echo failed > {failed}\n")
    submit_arrays([job], Launcher(this_process()))
    assert failed.exists()


def test_waiting_ends_with_squeue_and_trusts_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ar, dlm, spec = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "suite=demo")
    finish(ar)
    finish(spec)
    answers = iter(
        [
            {"1_0": "RUNNING", "1_1": "RUNNING", "1_2": "COMPLETED"},
            WorkerError("squeue cannot be asked"),
            {"1_1": "TIMEOUT", "1_0": "COMPLETING"},
            {},
        ]
    )

    def entries(_ids: object) -> dict[str, QueueEntry]:
        answer = next(answers)
        if isinstance(answer, WorkerError):
            raise answer
        return {job_id: QueueEntry(state, "") for job_id, state in answer.items()}

    monkeypatch.setattr(submit, "queue_entries", entries)
    submitted = [Submitted(job, f"1_{number}") for number, job in enumerate((ar, dlm, spec))]
    assert wait(submitted, pause=lambda _seconds: None) == [submitted[1]]
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("1_0 (ar): running")
    assert told[1].startswith("1_1 (dlm): running")
    assert told[2] == "1_2 (linear_spec): COMPLETED"
    assert told[3] == "note: squeue cannot be asked; asking again"
    assert told[4].startswith("1_1 (dlm): failed (TIMEOUT): it left no record")
    assert told[-1] == "1_0 (ar): COMPLETED"


class Resubmitted:
    """Submits a job again under the next number; notes how often."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.jobs: list[JobSpec] = []

    def __call__(self, spec: JobSpec) -> Submitted | None:
        self.jobs.append(spec)
        return Submitted(spec, f"9_{len(self.jobs)}") if len(self.jobs) <= self.most else None


@pytest.mark.parametrize(
    ("killed", "follow_ups", "requeues", "times"),
    [(True, (), 10, 3), (True, (), 2, 2), (True, (), 0, 0), (True, ("2_0",), 10, 0), (False, (), 10, 0)],
)
def test_a_waiting_command_submits_again_whose_batch_script_was_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    killed: bool,
    follow_ups: tuple[str, ...],
    requeues: int,
    times: int,
) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar", f"cluster.max_requeues={requeues}")
    monkeypatch.setattr(submit, "batch_script_was_killed", lambda _id: killed)
    failed = QueueEntry("FAILED", "JobLaunchFailure")
    monkeypatch.setattr(submit, "queue_entries", lambda ids: dict.fromkeys(ids, failed))
    resubmitted = Resubmitted()
    item = Submitted(job, "1_0", follow_ups)
    [left] = wait([item], pause=lambda _seconds: None, again=Again(resubmitted))
    assert (len(resubmitted.jobs), left.job_id) == (times, f"9_{times}" if times else "1_0")
    said = capsys.readouterr().err
    assert said.count("its batch script was killed; it goes on as 9_") == times
    assert f"{left.job_id} (ar): failed (FAILED)" in said


@pytest.mark.parametrize("state", ["CANCELLED", "TIMEOUT", "gone from squeue"])
def test_a_job_that_ended_otherwise_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar")
    monkeypatch.setattr(submit, "batch_script_was_killed", lambda _id: True)
    assert Again(Resubmitted())(Submitted(job, "1"), state) is None


def test_a_job_that_slurm_does_not_take_again_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar")
    monkeypatch.setattr(submit, "batch_script_was_killed", lambda _id: True)

    def refused(_spec: JobSpec) -> Submitted | None:
        raise SubmissionError("sbatch refused the jobs: no")

    assert Again(refused)(Submitted(job, "1"), "FAILED") is None
    assert "could not be submitted again: sbatch refused the jobs: no" in capsys.readouterr().err
    assert Again(Resubmitted(most=0))(Submitted(job, "1"), "FAILED") is None
