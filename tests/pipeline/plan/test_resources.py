"""CPUs and memory by rule, and the options that go to sbatch."""

from __future__ import annotations

from pathlib import Path

from trimode.pipeline.spec import ResourceSpec
from trimode.tests.fakes.sweeps import jobs_of

BARE = ("cluster=bare", "mode=ar", "model.path=./model", "out_dir=out")


def model(cwd: Path, num_bytes: int) -> None:
    (cwd / "model").mkdir()
    with (cwd / "model" / "model.safetensors").open("wb") as file:
        file.truncate(num_bytes)


def asked(cwd: Path, *overrides: str) -> ResourceSpec:
    return jobs_of(cwd, *BARE, *overrides)[0].resources


def test_cpus_and_memory_follow_workers_scorers_and_weights(tmp_path: Path) -> None:
    model(tmp_path, 16_000_000_000)
    resources = asked(tmp_path)
    assert resources.cpus_per_task == 8 * 4 + 2 + 2
    assert resources.mem_gb == 216  # 8 x (1.2 x 16 + 6) + 2 x 2 + 8 = 213.6
    resources = asked(tmp_path, "cluster.gpus=2", "client.num_scorers=6")
    assert (resources.cpus_per_task, resources.mem_gb) == (2 * 4 + 6 + 2, 72)


def test_a_job_on_the_cpu_asks_for_memory_only_with_a_known_kv_cache(tmp_path: Path) -> None:
    model(tmp_path, 1_000_000_000)
    on_cpu = ("balancer.device=cpu", "cluster.gpus=2")
    assert (asked(tmp_path, *on_cpu).cpus_per_task, asked(tmp_path, *on_cpu).mem_gb) == (12, None)
    assert asked(tmp_path, *on_cpu, "balancer.kv_cache_gb=4").mem_gb == 40


def test_weights_that_are_not_here_give_no_memory(tmp_path: Path) -> None:
    assert asked(tmp_path, "model.path=org/not-here").mem_gb is None


def test_what_is_set_wins_over_the_rule(tmp_path: Path) -> None:
    model(tmp_path, 1_000_000)
    resources = asked(tmp_path, "cluster.cpus_per_task=3", "cluster.mem_gb=5")
    assert (resources.cpus_per_task, resources.mem_gb) == (3, 5)
    assert asked(tmp_path, "cluster.exclusive=true").cpus_per_task is None
    assert asked(tmp_path, "cluster.sized=false").cpus_per_task is None
    assert asked(tmp_path, "+cluster.sbatch.exclusive=true").cpus_per_task is None
    resources = asked(tmp_path, "+cluster.sbatch.mem-per-cpu=4G")
    assert (resources.cpus_per_task, resources.mem_gb) == (36, None)


def test_options_keep_their_order_and_switches_have_no_value(tmp_path: Path) -> None:
    resources = asked(
        tmp_path,
        "cluster.qos=high",
        "cluster.exclusive=true",
        "cluster.nice=100",
        "cluster.array_throttle=4",
        "+cluster.sbatch={spread-job: true, licenses: 'a:2', oversubscribe: false, deadline: null}",
        "cluster.srun=['--cpu-bind=none']",
    )
    assert resources.sbatch == (
        ("qos", "high"),
        ("exclusive", None),
        ("nice", "100"),
        ("spread-job", None),
        ("licenses", "a:2"),
    )
    assert (resources.array_throttle, resources.srun) == (4, ("--cpu-bind=none",))
