"""What Slurm is asked for: each form is checked, and settings that say the same or exclude each other are refused."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.config.checks import check
from trimode.tests.fakes.sweeps import config_of


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.qos='high low'", "cluster.qos: got 'high low'; valid: a name"),
        ("cluster.partition='a,,b'", "cluster.partition: got 'a,,b'; valid: names with commas"),
        ("cluster.constraint='a;b'", "cluster.constraint: got 'a;b'; valid: names of features"),
        ("cluster.mail_type='END,OFTEN'", "cluster.mail_type: got 'OFTEN'; valid: NONE, BEGIN"),
        ("cluster.mail_user=me@here.org", "no mail is asked for; valid: with cluster.mail_type"),
        ("cluster.dependency=afterok", "cluster.dependency: got 'afterok'; valid: afterok:ID"),
        ("cluster.begin='in an hour'", "cluster.begin: got 'in an hour'; valid: now+1hour"),
        ("cluster.gres='gpu 4'", "cluster.gres: got 'gpu 4'; valid: name[:type]:count"),
        ("cluster.gres='gpu:h100:4'", "cluster.gres asks for 4 GPUs and cluster.gpus for 8; valid: the same number"),
        ("cluster.nice=3000000000", "cluster.nice: got 3000000000"),
        ("cluster.array_throttle=0", "cluster.array_throttle: got 0; valid: a whole number from 1"),
        ("cluster.max_requeues=-1", "cluster.max_requeues: got -1; valid: a whole number from 0"),
        ("cluster.nodes=0", "cluster.nodes: got 0; valid: a whole number from 1"),
        ("+cluster.sbatch.nodes=2", "it has one task on each node; valid: more nodes (cluster.nodes)"),
        ("cluster.modules=['cuda; rm']", "cluster.modules: got 'cuda; rm'; valid: names such as cuda/13"),
        ("cluster.srun=[overlap]", "cluster.srun: got 'overlap'; valid: options with their dashes"),
        ("+cluster.sbatch.p=gpu", "cluster.sbatch: got the option 'p'; valid: its long name"),
        ("+cluster.sbatch.time=60", "sbatch's --time is given once: got 60 in cluster.sbatch"),
        ("+cluster.sbatch.requeue=true", "valid: cluster.max_requeues alone"),
        ("+cluster.sbatch.licenses=[a]", "cluster.sbatch.licenses: got ['a']; valid: text, a number, or true"),
    ],
)
def test_a_broken_rule_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of("cluster=bare", override)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["comment", "qos", "dependency", "srun.0", "modules.0"])
def test_a_line_break_is_refused(name: str) -> None:
    key, _, item = name.partition(".")
    config = config_of("cluster=bare")
    setattr(config.cluster, key, ["--a\nb"] if item else "a\nb")
    with pytest.raises(ConfigError, match=f"cluster.{name} stands in one line of a batch script"):
        check(config)


def test_settings_of_slurm_are_none_of_this_machines() -> None:
    with pytest.raises(ConfigError, match=r"cluster.qos: got 'high', which jobs on this machine have none of"):
        config_of("cluster=local", "cluster.qos=high")


def test_this_machine_is_one_node() -> None:
    with pytest.raises(ConfigError, match=r"cluster.nodes: got 2 for a job on this machine; valid: 1, or a SLURM"):
        config_of("cluster=local", "cluster.nodes=2")


def test_a_job_that_asks_a_running_server_needs_one_node() -> None:
    server = ("balancer.backend=openai", "balancer.url=http://127.0.0.1:1", "model.path=m")
    with pytest.raises(ConfigError, match=r"cluster.nodes: got 2 for a job that asks a running server"):
        config_of("cluster=bare", "cluster.nodes=2", *server)


def test_a_gpu_job_in_gres_is_none_on_the_cpu() -> None:
    with pytest.raises(ConfigError, match="for a job on the CPU; valid: no gpu in it"):
        config_of("cluster=bare", "cluster.gres='gpu:8'", "balancer.device=cpu")


@pytest.mark.parametrize(
    "override",
    [
        "cluster.dependency='afterok:12_3:45,afterany:6+10'",
        "cluster.dependency=singleton",
        "cluster.begin='2030-01-01T10:00'",
        "cluster.begin='now+2hours'",
        "cluster.constraint='[a|b]&c*2'",
        "cluster.gres='gpu:h100:8,tmp:100G'",
        "cluster.partition='batch,backfill'",
        "+cluster.sbatch.qos=high",
        "cluster.modules=[cuda/13,gcc/12.2+x]",
        "cluster.nice=-5",
    ],
)
def test_valid_forms_pass(override: str) -> None:
    config_of("cluster=bare", override)
