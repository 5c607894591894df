"""A job that the time limit interrupts under Slurm asks to be run again, unless that would lead nowhere."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path

import psutil
import pytest
from trimode.core.errors import RUN_AGAIN, START_AGAIN, TERMINATED
from trimode.pipeline.run_folder.manifest import runs_of
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_output
from trimode.pipeline.spec import Executor, JobSpec, Requeue
from trimode.tests.fakes.specs import job_spec, start_job, task_spec, write_data

pytestmark = pytest.mark.process


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    write_data(tmp_path / "data", 20)
    made = job_spec(tmp_path, (task_spec(),))
    return dataclasses.replace(made, resources=dataclasses.replace(made.resources, executor=Executor.slurm))


def interrupted(spec: JobSpec, folder: Path, restart: int, *, delay_s: float = 0.05, after: str) -> tuple[int, str]:
    """Starts run number `restart` of a Slurm job and warns it once its log holds `after`."""
    behaviour = {"delay_s": delay_s}
    job = start_job(spec, folder, behaviour, SLURM_JOB_ID="77", SLURM_RESTART_COUNT=str(restart))
    assert job.stdout is not None
    output = ""
    for line in job.stdout:
        output += line
        if after in line:
            break
    else:
        raise AssertionError(output)
    job.send_signal(signal.SIGUSR2)
    rest, _ = job.communicate(timeout=60)
    return job.returncode, output + rest


def test_the_time_limit_asks_for_another_run_that_goes_on(spec: JobSpec, tmp_path: Path) -> None:
    paths = RunPaths(Path(spec.run_dir))
    status, output = interrupted(spec, tmp_path, 0, after="serving at")
    assert status == RUN_AGAIN, output
    assert "time limit: the time limit of 10 min ended run 1; requeued 1/10" in output
    assert not paths.failed(0).exists() and not paths.completed(0).exists()
    [run] = runs_of(spec, paths)
    assert (run["status"], run["cause"], run["restart_count"]) == ("interrupted", "the job was ended by SIGUSR2", 0)
    last = start_job(spec, tmp_path, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1")
    assert last.communicate(timeout=60) and last.returncode == 0
    assert len(read_output(paths, "gsm8k", 0)) == 20
    assert [run["status"] for run in runs_of(spec, paths)] == ["interrupted", "completed"]
    assert runs_of(spec, paths)[1]["restart_count"] == 1


def test_in_a_chain_the_next_array_goes_on(spec: JobSpec, tmp_path: Path) -> None:
    resources = dataclasses.replace(spec.resources, requeue=Requeue.chain, max_requeues=2)
    spec = dataclasses.replace(spec, resources=resources)
    status, output = stopped(spec, tmp_path, signal.SIGUSR2, TRIMODE_LINK="1")
    assert status == RUN_AGAIN, output
    assert "ended run 2; the next array of the chain goes on 2/2" in output
    assert stopped(spec, tmp_path, signal.SIGUSR2, TRIMODE_LINK="2")[0] == 1
    assert RunPaths(Path(spec.run_dir)).failed(0).exists()


def test_runs_that_finish_nothing_are_not_repeated_for_ever(spec: JobSpec, tmp_path: Path) -> None:
    assert interrupted(spec, tmp_path, 0, delay_s=600.0, after="serving at")[0] == RUN_AGAIN
    status, output = interrupted(spec, tmp_path, 1, delay_s=600.0, after="serving at")
    assert status == 1, output
    record = RunPaths(Path(spec.run_dir)).failed(0).read_text()
    assert "the time limit of 10 min ended run 2" in record
    assert "neither this run nor the one before finished a single sample" in record
    assert "--time" in record


def test_the_number_of_requeues_is_bounded(spec: JobSpec, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec, resources=dataclasses.replace(spec.resources, max_requeues=3))
    assert interrupted(spec, tmp_path, 2, after="serving at")[0] == RUN_AGAIN
    assert interrupted(spec, tmp_path, 3, after="serving at")[0] == 1
    assert (
        "a job is requeued at most 3 times (cluster.max_requeues)" in RunPaths(Path(spec.run_dir)).failed(0).read_text()
    )


def stopped(spec: JobSpec, folder: Path, number: signal.Signals, **environment: str) -> tuple[int, str]:
    """Starts a run of a Slurm job and sends it a signal while it serves."""
    job = start_job(spec, folder, {"delay_s": 600.0}, SLURM_JOB_ID="77", **environment)
    assert job.stdout is not None
    output = ""
    for line in job.stdout:
        output += line
        if "serving at" in line:
            break
    job.send_signal(number)
    rest, _ = job.communicate(timeout=60)
    return job.returncode, output + rest


def test_other_signals_leave_a_record(spec: JobSpec, tmp_path: Path) -> None:
    assert stopped(spec, tmp_path, signal.SIGINT)[0] == 1
    assert "SIGINT" in RunPaths(Path(spec.run_dir)).failed(0).read_text()


def test_a_preempted_or_cancelled_run_is_no_failure(spec: JobSpec, tmp_path: Path) -> None:
    paths = RunPaths(Path(spec.run_dir))
    status, output = stopped(spec, tmp_path, signal.SIGTERM)
    assert status == TERMINATED, output
    assert "ended by SIGTERM: Slurm preempts or cancels the job; what is finished is kept" in output
    assert not paths.failed(0).exists() and not paths.completed(0).exists()
    [run] = runs_of(spec, paths)
    assert (run["status"], run["cause"]) == ("interrupted", "the job was ended by SIGTERM")
    last = start_job(spec, tmp_path, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1")
    assert last.communicate(timeout=60) and last.returncode == 0
    causes = [run["cause"] for run in runs_of(spec, paths)]
    assert causes == ["preempted: the job was ended by SIGTERM, and Slurm has run it again", None]


def test_a_signal_that_kills_the_starting_server_too_is_no_failure(spec: JobSpec, tmp_path: Path) -> None:
    paths = RunPaths(Path(spec.run_dir))
    job = start_job(spec, tmp_path, {"start_s": 600}, SLURM_JOB_ID="77", TRIMODE_STEP_RESTARTS="0")
    while not paths.server_info(0).exists() or not (servers := psutil.Process(job.pid).children()):
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGSTOP)
    for server in servers:
        server.kill()
    while any(server.is_running() and server.status() != psutil.STATUS_ZOMBIE for server in servers):
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    job.send_signal(signal.SIGCONT)
    job.communicate(timeout=60)
    assert job.returncode == TERMINATED
    assert not paths.failed(0).exists()
    [run] = runs_of(spec, paths)
    assert (run["status"], run["cause"]) == ("interrupted", "the job was ended by SIGTERM")


def test_a_cancelled_run_stays_one_when_another_job_goes_on(spec: JobSpec, tmp_path: Path) -> None:
    stopped(spec, tmp_path, signal.SIGTERM)
    start_job(spec, tmp_path, SLURM_JOB_ID="78").communicate(timeout=60)
    causes = [run["cause"] for run in runs_of(spec, RunPaths(Path(spec.run_dir)))]
    assert causes == ["the job was ended by SIGTERM", None]


def test_preemptions_do_not_count_as_time_limits(spec: JobSpec, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec, resources=dataclasses.replace(spec.resources, max_requeues=1))
    for restart in range(2):
        assert stopped(spec, tmp_path, signal.SIGTERM, SLURM_RESTART_COUNT=str(restart))[0] == TERMINATED
    status, output = stopped(spec, tmp_path, signal.SIGUSR2, SLURM_RESTART_COUNT="2")
    assert status == RUN_AGAIN, output
    assert "ended run 3; requeued 1/1" in output


def test_a_run_that_was_killed_does_not_stay_running(spec: JobSpec, tmp_path: Path) -> None:
    job = start_job(spec, tmp_path, {"delay_s": 600.0}, SLURM_JOB_ID="77")
    assert job.stdout is not None
    assert any("serving at" in line for line in job.stdout)
    job.kill()
    job.communicate(timeout=60)
    paths = RunPaths(Path(spec.run_dir))
    assert [run["status"] for run in runs_of(spec, paths)] == ["running"]
    assert paths.balancers_ready(0)
    start_job(spec, tmp_path, SLURM_JOB_ID="77").communicate(timeout=60)
    assert [run["status"] for run in runs_of(spec, paths)] == ["lost", "completed"]
    assert not paths.balancers_ready(0)


def test_the_warning_to_the_whole_step_ends_the_job_alone(spec: JobSpec, tmp_path: Path) -> None:
    """srun hands a signal to every process of the step, so the balancer gets it too."""
    job = start_job(spec, tmp_path, {"delay_s": 0.2}, SLURM_JOB_ID="77")
    assert job.stdout is not None
    assert any("serving at" in line for line in job.stdout)
    children = psutil.Process(job.pid).children(recursive=True)
    assert children
    for child in children:
        child.send_signal(signal.SIGUSR2)
    job.communicate(timeout=60)
    assert job.returncode == 0


def test_of_two_runs_of_one_job_the_earlier_stops(spec: JobSpec, tmp_path: Path) -> None:
    """A node that was cut off comes back after Slurm has started the job elsewhere."""
    paths = RunPaths(Path(spec.run_dir))
    earlier = start_job(spec, tmp_path, {"delay_s": 0.4}, SLURM_JOB_ID="77")
    assert earlier.stdout is not None
    assert any("serving at" in line for line in earlier.stdout)
    time.sleep(1)
    later = start_job(spec, tmp_path, {"delay_s": 0.4}, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1")
    told, _ = earlier.communicate(timeout=60)
    assert later.poll() is None, "the earlier run must notice while the later one works"
    assert earlier.returncode == 1
    assert "another run of this job has started" in told
    assert later.communicate(timeout=120) and later.returncode == 0
    assert paths.completed(0).exists() and not paths.failed(0).exists()
    rows = read_output(paths, "gsm8k", 0)
    assert len(rows) == len({row["problem"] for row in rows}) == 20
    records = read_nfe_log(paths.nfe_log(0))
    assert len({record.key for record in records}) == len(records) == 20
    assert [run["status"] for run in runs_of(spec, paths)] == ["lost", "completed"]
    assert 'SERVER_STATUS="stopped"' in paths.server_info(0).read_text()
    assert not list(paths.balancer_log(0).parent.glob("*.ready.json"))


def started(spec: JobSpec, folder: Path, behaviour: dict[str, object], restarts: int) -> tuple[int, str]:
    """Runs a job whose batch script can start it again, and has done so `restarts` times."""
    job = start_job(spec, folder, behaviour, SLURM_JOB_ID="77", TRIMODE_STEP_RESTARTS=str(restarts))
    output, _ = job.communicate(timeout=60)
    return job.returncode, output


def test_a_job_whose_server_died_asks_to_be_started_again(spec: JobSpec, tmp_path: Path) -> None:
    paths = RunPaths(Path(spec.run_dir))
    for restarts in (0, 2):
        status, output = started(spec, tmp_path, {"die_after": 5}, restarts)
        assert status == START_AGAIN, output
        assert "the balancer was killed by SIGKILL" in paths.failed(0).read_text()
        assert "Traceback" not in output
    status, output = started(spec, tmp_path, {}, 3)
    assert status == 0, output
    assert not paths.failed(0).exists() and len(read_output(paths, "gsm8k", 0)) == 20


def test_a_server_that_never_comes_up_is_tried_once_more(spec: JobSpec, tmp_path: Path) -> None:
    assert started(spec, tmp_path, {"fail_start": "out of memory"}, 0)[0] == START_AGAIN
    status, _ = started(spec, tmp_path, {"fail_start": "out of memory"}, 1)
    assert status == 1
    assert "out of memory" in RunPaths(Path(spec.run_dir)).failed(0).read_text()
