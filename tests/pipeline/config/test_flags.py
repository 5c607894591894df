"""Flags of eval.sh mean what the reference's do; one that nothing can use is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from trimode.core.errors import ConfigError
from trimode.core.protocol import Quantization
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flag_table import FLAGS
from trimode.pipeline.config.flags import parser, quote, to_overrides
from trimode.pipeline.config.schema import BenchmarkChoice, Config


def config_of(*flags: str) -> Config:
    return compose(to_overrides(flags))


@given(st.text(alphabet="ab '\"\\$[]{}(),:=\t%~@+#?*é", max_size=12).filter(lambda text: "${" not in text))
@example("it's\\")
@example("\\'\\\\'")
def test_a_quoted_value_is_the_text_itself(text: str) -> None:
    value: Any = OverridesParser.create().parse_override(f"key={quote(text)}").value()
    assert value == text


VALUES: tuple[tuple[str, str, str, object], ...] = (
    ("--model", "a b/c,d", "model.path", "a b/c,d"),
    ("--tokenizer", "tok", "model.tokenizer", "tok"),
    ("--exp-name", "mine", "exp_name", "mine"),
    ("--benchmarks", "gsm8k:1,mbpp:2", "benchmarks", (BenchmarkChoice("gsm8k", 1), BenchmarkChoice("mbpp", 2))),
    ("--limit", "7", "limit", 7),
    ("--data-dir", "d", "data_dir", "d"),
    ("--tokens", "128", "max_new_tokens", 128),
    ("--temperature", "0.5", "temperature", 0.5),
    ("--max-thinking-tokens", "12", "max_thinking_tokens", 12),
    ("--enable-thinking", "true", "enable_thinking", True),
    ("--batch-size", "4", "balancer.max_num_seqs", 4),
    ("--gpus", "2", "cluster.gpus", 2),
    ("--workers", "2", "balancer.workers", 2),
    ("--device", "cpu", "balancer.device", "cpu"),
    ("--partition", "p,q", "cluster.partition", "p,q"),
    ("--account", "a", "cluster.account", "a"),
    ("--time", "01:00:00", "cluster.time_limit", "01:00:00"),
    ("--image", "i.sqsh", "cluster.container_image", "i.sqsh"),
    ("--qos", "high", "cluster.qos", "high"),
    ("--constraint", "a&b", "cluster.constraint", "a&b"),
    ("--reservation", "mine", "cluster.reservation", "mine"),
    ("--gres", "gpu:h100:8", "cluster.gres", "gpu:h100:8"),
    ("--cpus", "12", "cluster.cpus_per_task", 12),
    ("--mem", "64", "cluster.mem_gb", 64),
    ("--mail-type", "END,FAIL", "cluster.mail_type", "END,FAIL"),
    ("--mail-user", "me@here.org", "cluster.mail_user", "me@here.org"),
    ("--comment", "it's, mine", "cluster.comment", "it's, mine"),
    ("--dependency", "afterok:1:2,singleton", "cluster.dependency", "afterok:1:2,singleton"),
    ("--begin", "now+1hour", "cluster.begin", "now+1hour"),
    ("--throttle", "4", "cluster.array_throttle", 4),
    ("--nice", "10", "cluster.nice", 10),
    ("--max-requeues", "0", "cluster.max_requeues", 0),
    ("--modules", "gcc,cuda/13", "cluster.modules", ["gcc", "cuda/13"]),
    ("--out-dir", "it's here", "out_dir", "it's here"),
    ("--jobs-per", "benchmark", "jobs_per", "benchmark"),
    ("--num-chunks", "4", "num_chunks", 4),
    ("--cluster", "bare", "cluster.name", "bare"),
    ("--block-length", "16", "modes.dlm.block_length", 16),
    ("--threshold", "0.7", "modes.dlm.threshold", 0.7),
    ("--threshold", "none", "modes.dlm.threshold", None),
    ("--max-model-len", "9000", "modes.dlm.max_model_len", 9000),
    ("--max-pos-emb", "99999", "modes.dlm.max_position_embeddings", 99999),
)


@pytest.mark.parametrize(("flag", "text", "key", "expected"), VALUES)
def test_a_flag_sets_its_key(flag: str, text: str, key: str, expected: object) -> None:
    value: Any = config_of("--mode", "dlm", flag, text)
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected


def test_switches() -> None:
    config = config_of("--mode", "ar", "--no-eos-early-stop", "--fresh", "--wait", "--dry-run", "--json")
    assert not config.eos_early_stop
    assert config.fresh and config.wait and config.dry_run and config.json


def test_every_listed_flag_is_in_the_help_with_its_default() -> None:
    text = " ".join(parser().format_help().split())
    for flags in FLAGS.values():
        for flag in flags:
            assert (flag.name in text) == flag.listed
            assert not flag.listed or " ".join(f"(default: {flag.default})".split()).replace("- ", "-") in text.replace(
                "- ", "-"
            )


def test_lora_acts_on_linear_spec_alone() -> None:
    config = config_of("--mode", "all", "--lora", "--lora-path", "here", "--draft-lora-only", "true")
    assert {name: mode.lora for name, mode in config.modes.items()} == {"ar": False, "dlm": False, "linear_spec": True}
    assert (config.model.lora_path, config.model.draft_lora_only) == ("here", True)


def test_block_length_acts_on_the_modes_with_blocks() -> None:
    config = config_of("--mode", "all", "--block-length", "16")
    assert {name: mode.block_length for name, mode in config.modes.items()} == {"ar": 1, "dlm": 16, "linear_spec": 16}
    assert config_of("--mode", "ar", "--block-length", "1").modes["ar"].block_length == 1


def test_the_demo_is_five_rows_here_and_can_be_narrowed() -> None:
    config = config_of("--demo")
    assert list(config.modes) == ["ar", "dlm", "linear_spec", "linear_spec_lora", "auto"]
    assert (config.cluster.name, config.modes["dlm"].block_length, config.model.name) == ("local", 32, "demo_model")
    assert list(config_of("--demo", "--mode", "dlm,ar").modes) == ["ar", "dlm"]
    assert "linear_spec_lora" not in config_of("--demo", "~modes.linear_spec_lora").modes


def test_quantization_is_a_setting_of_the_model() -> None:
    assert config_of("--mode", "ar").model.quantization is Quantization.none
    assert config_of("--mode", "ar", "--quantization", "w4a16").model.quantization is Quantization.w4a16
    with pytest.raises(ConfigError, match="int3"):
        config_of("--mode", "ar", "--quantization", "int3")


def test_settings_without_a_flag_go_through() -> None:
    assert config_of("--mode", "ar", "model.dtype=float32", "--limit", "3", "starting_seed=5").starting_seed == 5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "--mode is required; valid: ar, dlm, linear_spec"),
        ("--mode fast", "--mode: got 'fast'; valid: ar, dlm, linear_spec"),
        ("--mode ar --block-length 4", "--block-length with ar: got 4; valid: 1"),
        ("--mode ar --threshold 0.5", "--threshold: got mode ar, which cannot use it; valid with dlm"),
        ("--mode ar,dlm --lora", "--lora: got mode ar, dlm, which cannot use it; valid with linear_spec"),
        ("--mode linear_spec --lora-path x", "--lora-path acts with an adapter only: give --lora too"),
        ("--mode linear_spec --no-lora", "unrecognized arguments: --no-lora"),
        ("--mode dlm --steps 8", "--steps: got 8, but no mode has a step count"),
        ("--mode dlm --json", "--json prints a dry run: give --dry-run too"),
        ("--mode dlm --local --account a", "--account: jobs on this machine have none"),
        ("--mode dlm --local --cluster bare", "--local and --cluster bare: got both"),
        ("--mode dlm --setup base", "--setup stands alone"),
        ("--mode dlm --fast", "--fast"),
        ("--mode dlm --tokens", "--tokens: expected one argument"),
        ("--mode dlm gsm8k", "unknown argument 'gsm8k'"),
        ("--mode dlm --doctor", "--doctor comes first: eval.sh --doctor"),
        ("--mode dlm --serve", "--serve comes first: eval.sh --serve"),
        ("--mode dlm --enable-thinking maybe", "--enable-thinking: got 'maybe'; valid: true or false"),
        ("--mode dlm --tokens many", "max_new_tokens: got 'many'; valid: a whole number"),
        ("--mode dlm --cluster moon", "cluster: got 'moon'; valid: apptainer, bare, local, slurm"),
        ("--mode dlm --device gpu", "got 'gpu'; valid: auto, cpu, cuda"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(*flags.split())
    assert words in str(error.value)


def test_all_modes_are_those_with_results_of_their_own() -> None:
    assert list(config_of("--mode", "all").modes) == ["ar", "dlm", "linear_spec"]
    auto = config_of("--mode", "auto", "--lora", "--block-length", "16").modes["auto"]
    assert (auto.mode.value, auto.lora, auto.block_length, auto.threshold) == ("auto", True, 16, 0.0)


def test_help_shows_the_defaults_of_the_modes() -> None:
    text = " ".join(parser().format_help().split())
    assert "tokens per block, in auto at most; ar takes 1 only (default: ar 1, dlm 8, linear_spec 32, auto 32)" in text
    assert "not for ar (default: dlm 0.9, linear_spec 0, auto 0)" in text


def test_whole_nodes_are_a_switch() -> None:
    assert config_of("--mode", "ar", "--exclusive").cluster.exclusive


@pytest.mark.parametrize("flag", [("--qos", "high"), ("--exclusive",), ("--mail-type", "END"), ("--modules", "gcc")])
def test_flags_for_slurm_are_none_of_this_machines(flag: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=f"{flag[0]}: jobs on this machine have none; valid: with a Slurm cluster"):
        to_overrides(("--mode", "ar", "--local", *flag))
