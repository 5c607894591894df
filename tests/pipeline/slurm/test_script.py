"""The sbatch text, line by line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.launch.dry_run import job_scripts
from trimode.pipeline.slurm.arrays import by_shape, submission_dir
from trimode.pipeline.slurm.requeue import EARLY_WARNING, srun_function, warning_s
from trimode.pipeline.slurm.script import container_arguments, sbatch_text
from trimode.tests.fakes.sweeps import jobs_of, local_jobs

TYPES = PROJECT_DIR / ".types"


def test_a_single_bare_job(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "mode=dlm", "cluster=bare", "cluster.gpus=2", "cluster.time_limit=90", "out_dir=out")
    folder = submission_dir(jobs)
    assert folder.parent == tmp_path / "out" / ".submitit"
    assert sbatch_text(jobs).splitlines() == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --cpus-per-task=12",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --job-name=trimode-dlm",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={folder}/%j_0_log.out",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR2@120",
        "#SBATCH --time=90",
        "",
        "# setup",
        EARLY_WARNING,
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={TYPES}${{PYTHONPATH:+:$PYTHONPATH}}",
        *srun_function(jobs[0].resources),
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        f"srun --unbuffered --output {folder}/%j_%t_log.out --cpus-per-task=12 {sys.executable} -u -m "
        f"trimode.pipeline.launch.task {folder}",
    ]


def test_an_array_in_containers(tmp_path: Path) -> None:
    jobs = jobs_of(
        tmp_path,
        "mode=[ar,dlm]",
        "cluster.account=us",
        "cluster.container_image=/images/my image.sqsh",
        "cluster.hub_cache=/hub",
        "cluster.comment='do not reap'",
        "+cluster.sbatch.qos=high",
        "cluster.setup=['module load cuda']",
        "out_dir=out",
    )
    folder = submission_dir(jobs)
    mounts = f"{PROJECT_DIR}:{PROJECT_DIR},{tmp_path}/out:{tmp_path}/out,/hub:/hub"
    assert sbatch_text(jobs).splitlines() == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --account=us",
        "#SBATCH --array=0-1%2",
        "#SBATCH --comment='do not reap'",
        "#SBATCH --cpus-per-task=48",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --job-name=trimode-ar+dlm",
        "#SBATCH --mem=256GB",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={folder}/%A_%a_0_log.out",
        "#SBATCH --partition=batch,backfill",
        "#SBATCH --qos=high",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR2@120",
        "#SBATCH --time=240",
        "",
        "# setup",
        EARLY_WARNING,
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={TYPES}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export HF_HOME=/hub",
        "module load cuda",
        *srun_function(jobs[0].resources),
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        f"srun --unbuffered --output {folder}/%A_%a_%t_log.out '--container-image=/images/my image.sqsh' "
        f"--container-workdir={PROJECT_DIR} --container-mounts={mounts} --no-container-mount-home --cpus-per-task=48 "
        f"env PYTHONSAFEPATH=1 PYTHONPATH={TYPES} python3 -u -m trimode.pipeline.launch.task {folder}",
    ]


def test_without_a_container_there_are_no_arguments(tmp_path: Path) -> None:
    assert container_arguments(jobs_of(tmp_path, "cluster=bare")[0].resources, ()) == []


def test_cpu_jobs_ask_for_no_gpus(tmp_path: Path) -> None:
    assert "--gpus" not in sbatch_text(jobs_of(tmp_path, "mode=ar", "cluster=bare", "balancer.device=cpu"))


def test_the_same_jobs_share_a_folder_and_others_do_not(tmp_path: Path) -> None:
    one, again = jobs_of(tmp_path, "cluster=bare"), jobs_of(tmp_path, "cluster=bare")
    assert submission_dir(one) == submission_dir(again)
    assert submission_dir(one) != submission_dir(jobs_of(tmp_path, "cluster=bare", "limit=1"))


@pytest.mark.process
def test_one_script_per_shape(tmp_path: Path) -> None:
    few, many = (jobs_of(tmp_path, "cluster=bare", f"cluster.gpus={count}") for count in (1, 8))
    assert [len(group) for group in by_shape([*few, *many])] == [3, 3]
    assert [len(jobs) for jobs, _ in job_scripts([*few, *many])] == [3, 3]
    assert [len(jobs) for jobs, _ in job_scripts(local_jobs(tmp_path))] == [1, 1, 1]


def test_a_short_job_is_warned_early_enough() -> None:
    assert [warning_s(minutes) for minutes in (1, 3, 4, 6, 240)] == [60, 60, 80, 120, 120]


def test_every_setting_reaches_the_script(tmp_path: Path) -> None:
    jobs = jobs_of(
        tmp_path,
        "cluster=bare",
        "mode=[ar,dlm]",
        "out_dir=out",
        "cluster.qos=high",
        "cluster.exclusive=true",
        "cluster.gres='gpu:h100:8'",
        "cluster.mail_type=END",
        "cluster.dependency='afterok:12'",
        "cluster.array_throttle=1",
        "cluster.nice=100",
        "cluster.max_requeues=0",
        "+cluster.sbatch={spread-job: true}",
        "cluster.srun=['--cpu-bind=none']",
        "cluster.modules=[gcc,cuda/13]",
        "cluster.setup=['ulimit -n 65536']",
    )
    lines = sbatch_text(jobs).splitlines()
    for line in (
        *("qos=high", "exclusive", "gres=gpu:h100:8", "mail-type=END", "dependency=afterok:12", "array=0-1%1"),
        *("nice=100", "no-requeue", "spread-job"),
    ):
        assert f"#SBATCH --{line}" in lines
    assert not any("gpus-per-node" in line for line in lines)
    assert lines.index("module load gcc") < lines.index("module load cuda/13") < lines.index("ulimit -n 65536")
    assert " --cpu-bind=none " in lines[-2] or " --cpu-bind=none " in lines[-1]


def test_an_array_is_named_by_what_it_holds_and_has_the_mounts_of_all(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    common = ("out_dir=out", "cluster.container_image=i.sqsh", "mode=all")
    jobs = [job for name in ("one", "two") for job in jobs_of(tmp_path, *common, f"model.path=./{name}")]
    [group] = by_shape(jobs)
    text = sbatch_text(group)
    assert "#SBATCH --job-name=trimode-one+two-ar+dlm+linear_spec" in text
    assert f"{tmp_path}/one:{tmp_path}/one" in text and f"{tmp_path}/two:{tmp_path}/two" in text


def test_arrays_are_cut_where_the_cluster_takes_no_longer_ones(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "cluster=bare", "num_chunks=5", "benchmarks=gsm8k", "mode=ar")
    assert [len(group) for group in by_shape(jobs, 2)] == [2, 2, 1]
