"""Each rule of a sweep is refused with what came and what is valid."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flags import to_overrides
from trimode.tests.fakes.sweeps import config_of


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modes.ar.block_length=2", "block_length of ar: got 2; valid: 1"),
        ("modes.dlm.block_length=0", "modes.dlm.block_length: got 0; valid: a whole number from 1"),
        ("num_chunks=0", "num_chunks: got 0; valid: a whole number from 1"),
        ("modes.ar.threshold=0.5", "threshold of ar: got 0.5; valid: null"),
        ("modes.dlm.threshold=1.5", "threshold of dlm: got 1.5; valid: from 0 up to 1"),
        ("modes.dlm.threshold=-0.5", "threshold of dlm: got -0.5"),
        ("modes.linear_spec.threshold=-1", "threshold of linear_spec: got -1; valid: from 0 up to 1"),
        ("modes.dlm.threshold=nan", "threshold of dlm: got nan"),
        ("modes.dlm.lora=true", "only linear_spec and auto do; got mode dlm"),
        ("max_new_tokens=0", "max_new_tokens: got 0; valid: a whole number from 1"),
        ("max_new_tokens=20480", "valid: below 20480, or a larger max_model_len"),
        ("modes.dlm.max_position_embeddings=10000", "max_model_len of dlm stays within its max_position_embeddings"),
        ("temperature=-1", "temperature: got -1.0; valid: 0 (greedy) or more"),
        ("temperature=inf", "temperature: got inf"),
        ("top_p=0", "top_p: got 0.0"),
        ("limit=0", "limit: got 0; valid: a whole number from 1"),
        ("cluster.gpus=0", "cluster.gpus: got 0"),
        ("balancer.start_timeout_s=-1", "balancer.start_timeout_s: got -1.0; valid: seconds, 0 or more"),
        ("balancer.start_timeout_s=inf", "balancer.start_timeout_s: got inf"),
        ("balancer.workers=9", "workers: each has a GPU of its own; got 9 for 8 GPUs"),
        ("model.quantize_head=true", "model.quantize_head: got true with model.quantization none; valid: with fp8"),
        ("exp_name='../up'", "exp_name is one folder's name: got '../up'"),
        ("exp_name=.hidden", "exp_name is one folder's name: got '.hidden'"),
        (f"exp_name={'x' * 256}", "valid: up to 255 letters"),
    ],
)
def test_a_broken_rule_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(override)
    assert words in str(error.value)


def test_no_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one mode"):
        config_of("mode=ar", "~modes.ar")


def test_workers_on_the_cpu_need_no_gpus() -> None:
    assert config_of("balancer.workers=9", "balancer.device=cpu").balancer.workers == 9


def test_a_value_of_the_batch_script_stays_in_its_line() -> None:
    config = compose(["cluster=slurm"])
    for name in ("account", "partition", "container_image", "hub_cache", "container_python", "name"):
        before = getattr(config.cluster, name)
        for char in "\n\r\x00\x1b\x0b\x7f\x85\u2028\udc80":
            setattr(config.cluster, name, f"us{char}#SBATCH --partition=theirs")
            with pytest.raises(ConfigError, match=rf"cluster\.{name} stands in one line of a batch script: got 'us"):
                check(config)
        setattr(config.cluster, name, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("container_mounts", ["/a:/a", "/b:/b\n"]),
        ("setup", ["module load cuda", "true\nfalse"]),
        ("sbatch", {"comment": "a\nb"}),
        ("sbatch", {"qos\n#SBATCH --x": "high"}),
        ("sbatch", {"qos=low --x": "high"}),
        ("sbatch", {"": "high"}),
    ],
)
def test_so_do_lists_and_further_options(name: str, value: object) -> None:
    config = compose(["cluster=slurm"])
    setattr(config.cluster, name, value)
    with pytest.raises(ConfigError, match=rf"cluster\.{name}"):
        check(config)


def test_a_newline_in_the_account_is_refused_from_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.account .* got 'us\\n#SBATCH --x'"):
        check(compose(to_overrides(["--mode", "ar", "--account", "us\n#SBATCH --x"])))


def test_blanks_tabs_and_quotes_are_fine() -> None:
    config = compose(["cluster=slurm", "cluster.account='our \\'group\\''"])
    config.cluster.setup = ["if true; then\techo ö; fi"]
    check(config)


def test_a_path_no_file_can_have_is_refused() -> None:
    config = config_of("cluster=local")
    for name in ("model.path", "model.tokenizer", "model.lora_path", "out_dir", "data_dir"):
        group, _, field = name.rpartition(".")
        holder = getattr(config, group) if group else config
        before = getattr(holder, field)
        for char in "\x00\udc80":
            setattr(holder, field, f"a{char}b")
            with pytest.raises(ConfigError, match=rf"{name} is text in UTF-8"):
                check(config)
        setattr(holder, field, before)


@pytest.mark.parametrize("name", ["nodes", "ntasks", "ntasks_per_node", "array", "output", "signal", "wrap"])
def test_options_that_would_break_a_job_are_refused(name: str) -> None:
    config = compose(["cluster=bare"])
    config.cluster.sbatch = {name: "2"}
    with pytest.raises(ConfigError, match=rf"cluster\.sbatch: got the option '{name}', which .*; valid: "):
        check(config)
