"""The plan turns a config into frozen jobs: names, folders, tasks and what each asks for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.survey import survey
from trimode.tests.fakes.sweeps import config_of, jobs_of

EIGHT_B = "nvidia__Nemotron-Labs-Diffusion-8B"


def test_one_job_per_mode_with_the_references_names(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "out_dir=out")
    assert [job.exp_name for job in jobs] == [
        f"{EIGHT_B}_ar_tok8192_blk1_temp0",
        f"{EIGHT_B}_dlm_tok8192_blk8_temp0_thr0.9",
        f"{EIGHT_B}_linear_spec_tok8192_blk32_temp0_thr0",
    ]
    for job in jobs:
        assert Path(job.run_dir).parent == tmp_path / "out" / job.exp_name / "hf_base"
        assert Path(job.run_dir).name.startswith("eval_")
        assert (job.index, len(job.tasks)) == (0, 10)
    assert sum(task.num_requests for task in jobs[0].tasks) == 17656


def test_the_adapter_stands_in_the_name(tmp_path: Path) -> None:
    (tmp_path / "my_lora").mkdir()
    flags = ("mode=linear_spec", "modes.linear_spec.lora=true", "model.lora_path=my_lora", "temperature=0.7")
    assert jobs_of(tmp_path, *flags)[0].exp_name == f"{EIGHT_B}_linear_spec_tok8192_blk32_temp0.7_lora_my_lora_thr0"
    marked = jobs_of(tmp_path, *flags, "model.draft_lora_only=true")[0]
    assert marked.exp_name == f"{EIGHT_B}_linear_spec_tok8192_blk32_temp0.7_lora_my_lora_draft_only_thr0"
    assert marked.decode.lora_path == str(tmp_path / "my_lora")


def test_modes_with_one_given_name_keep_folders_of_their_own(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "exp_name=mine")
    assert {job.exp_name for job in jobs} == {"mine"}
    assert len({job.run_dir for job in jobs}) == 3


def test_one_job_per_benchmark_on_request(tmp_path: Path) -> None:
    jobs = jobs_of(
        tmp_path, "mode=ar", "benchmarks='gsm8k:2,mbpp'", "jobs_per=benchmark", "starting_seed=3", "limit=10"
    )
    assert [(job.index, job.name) for job in jobs] == [(0, "ar-gsm8k"), (1, "ar-mbpp")]
    assert len({job.run_dir for job in jobs}) == 1
    assert [job.tasks[0].seeds for job in jobs] == [(3, 4), (3,)]
    assert [job.tasks[0].num_requests for job in jobs] == [20, 10]


def test_samples_shared_by_several_jobs(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "mode=ar", "benchmarks='gsm8k:2,mbpp'", "num_chunks=3", "limit=10")
    assert [(job.index, job.name) for job in jobs] == [(0, "ar-chunk0"), (1, "ar-chunk1"), (2, "ar-chunk2")]
    assert len({job.run_dir for job in jobs}) == 1
    assert [sum(task.num_requests for task in job.tasks) for job in jobs] == [12, 9, 9]
    one = jobs_of(tmp_path, "mode=ar", "benchmarks='gsm8k:2,mbpp'", "limit=10")[0]
    assert jobs[0].run_dir == one.run_dir
    each = jobs_of(tmp_path, "mode=ar", "benchmarks='gsm8k,mbpp'", "num_chunks=2", "jobs_per=benchmark")
    assert [(job.index, job.name) for job in each] == [
        (0, "ar-gsm8k-chunk0"),
        (1, "ar-gsm8k-chunk1"),
        (2, "ar-mbpp-chunk0"),
        (3, "ar-mbpp-chunk1"),
    ]


def test_twins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dlm and again are the same run"):
        jobs_of(tmp_path, "mode=dlm", "+mode@modes.again=dlm")


@pytest.mark.parametrize(
    ("overrides", "num_gpus", "num_workers"),
    [
        ((), 8, None),
        (("cluster.gpus=2",), 2, None),
        (("cluster.gpus=4", "balancer.workers=2"), 4, 2),
        (("balancer.device=cpu", "cluster.gpus=2"), 0, 2),
        (("balancer.device=cpu", "balancer.workers=3"), 0, 3),
        (("cluster=local",), 0, None),
        (("cluster=local", "cluster.gpus=2"), 2, None),
        (("cluster=local", "balancer.workers=2"), 0, 2),
    ],
)
def test_gpus_and_workers(tmp_path: Path, overrides: tuple[str, ...], num_gpus: int, num_workers: int | None) -> None:
    resources = jobs_of(tmp_path, "mode=ar", *overrides)[0].resources
    assert (resources.num_gpus, resources.num_workers) == (num_gpus, num_workers)


def test_bare_has_no_mounts(tmp_path: Path) -> None:
    assert jobs_of(tmp_path, "cluster=bare")[0].resources.container_mounts == ()
    assert jobs_of(tmp_path, "cluster=bare", "cluster.mem_gb=3")[0].resources.mem_gb == 3


def test_a_null_threshold_is_none_in_dlm_and_zero_in_linear_spec(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "modes.dlm.threshold=null", "modes.linear_spec.threshold=null")
    assert [job.decode.threshold for job in jobs] == [None, None, 0.0]


def test_a_thinking_budget_goes_along_with_thinking_only(tmp_path: Path) -> None:
    assert jobs_of(tmp_path)[0].decode.max_thinking_tokens is None
    assert jobs_of(tmp_path, "enable_thinking=true")[0].decode.max_thinking_tokens == 6000


def test_the_context_is_the_smaller_of_limit_and_cap(tmp_path: Path) -> None:
    limits = [job.model.max_position_embeddings for job in jobs_of(tmp_path)]
    assert limits == [65536, 20480, 20480]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"max_position_embeddings": 16384}')
    assert jobs_of(tmp_path, "mode=ar", "model.path=./m")[0].model.max_position_embeddings == 16384
    low = jobs_of(tmp_path, "mode=dlm", "modes.dlm.max_position_embeddings=21000", "modes.dlm.max_model_len=null")
    assert low[0].model.max_position_embeddings == 21000


def test_containers_see_each_folder_once_at_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    mounts = jobs_of(
        tmp_path,
        "model.path=./model",
        "out_dir=out",
        "data_dir=out/data",
        "cluster.hub_cache=/cache",
        "cluster.container_mounts=['/scratch:/scratch:ro']",
    )[0].resources.container_mounts
    assert mounts[1:] == (
        f"{tmp_path}/out:{tmp_path}/out",
        f"{tmp_path}/model:{tmp_path}/model",
        "/cache:/cache",
        "/scratch:/scratch:ro",
    )


def test_a_neighbour_with_the_same_beginning_is_mounted(tmp_path: Path) -> None:
    mounts = jobs_of(tmp_path, "out_dir=out", "data_dir=out2")[0].resources.container_mounts
    assert f"{tmp_path}/out2:{tmp_path}/out2" in mounts


def test_a_path_that_cannot_be_mounted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no comma or colon"):
        jobs_of(tmp_path, "out_dir='a:b'")


def test_the_plan_is_pure_and_its_jobs_travel(tmp_path: Path) -> None:
    config = config_of("out_dir=out")
    found = survey(config, tmp_path)
    jobs = plan(config, found)
    assert plan(config, found) == jobs
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_batch_script_has_no_line_break(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out_dir stands in one line of a batch script"):
        jobs_of(tmp_path, "cluster=bare", "out_dir='a\n#SBATCH --x'")
    broken = tmp_path / "a\nb"
    broken.mkdir()
    with pytest.raises(ConfigError, match="out_dir stands in one line"):
        jobs_of(broken, "cluster=bare")
    with pytest.raises(ConfigError, match="a folder of a contained job stands in one line"):
        jobs_of(tmp_path, "cluster.account=us", "model.path='./a\nb'")
    assert jobs_of(tmp_path, "cluster=local", "model.path='./a\nb'")


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_answers_that_fill_the_checkpoints_context_are_refused_in_every_mode(tmp_path: Path, mode: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"max_position_embeddings": 4096}')
    model = (f"mode={mode}", "model.path=./m")
    with pytest.raises(ConfigError, match=f"got 8192 with a context of 4096 tokens in {mode} .*valid: below 4096"):
        jobs_of(tmp_path, *model)
    with pytest.raises(ConfigError, match="got 4096 with a context of 4096"):
        jobs_of(tmp_path, *model, "max_new_tokens=4096")
    assert jobs_of(tmp_path, *model, "max_new_tokens=4095")
    assert jobs_of(tmp_path, *model, f"modes.{mode}.max_position_embeddings=70000")


def test_what_links_in_a_folder_of_weights_lead_to_is_mounted(tmp_path: Path) -> None:
    """The hub's cache holds snapshots of links into blobs; others link through folders that are links themselves."""
    for folder in ("hub/snapshots/1", "hub/blobs", "disk/v1", "model"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hub/blobs/abc").write_text("{}")
    (tmp_path / "disk/v1/weights").write_text("w")
    (tmp_path / "current").symlink_to("disk/v1")
    (tmp_path / "hub/snapshots/1/config.json").symlink_to("../../blobs/abc")
    (tmp_path / "hub/snapshots/1/model.safetensors").symlink_to(tmp_path / "current/weights")
    (tmp_path / "hub/snapshots/1/circle").symlink_to("circle")
    mounts = jobs_of(tmp_path, "model.path=hub/snapshots/1", "out_dir=out")[0].resources.container_mounts
    folders = {mount.partition(":")[0] for mount in mounts}
    assert {f"{tmp_path}/{name}" for name in ("hub/snapshots/1", "hub/blobs", "current", "disk/v1")} <= folders


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("img.sqsh", "{cwd}/img.sqsh"),
        ("./a/img.sqsh", "{cwd}/a/img.sqsh"),
        ("/x/img.sqsh", "/x/img.sqsh"),
        ("docker://org/image:1", "docker://org/image:1"),
        ("nvcr.io#nvidia/pytorch:25.10-py3", "nvcr.io#nvidia/pytorch:25.10-py3"),
    ],
)
def test_an_image_file_reaches_slurm_by_its_absolute_path(tmp_path: Path, image: str, expected: str) -> None:
    job = jobs_of(tmp_path, f"cluster.container_image='{image}'", "out_dir=out")[0]
    assert job.resources.container_image == expected.format(cwd=tmp_path)


def test_the_time_to_become_ready_reaches_the_job(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "balancer.start_timeout_s=77")
    assert {job.client.start_timeout_s for job in jobs} == {77.0}
