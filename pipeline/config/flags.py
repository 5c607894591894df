"""The flags of eval.sh: what each one means, its default, and the Hydra overrides it stands for.

Values are checked in `checks`, with those of all other settings.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from trimode.core.errors import ConfigError
from trimode.core.protocol import MODE_DEFAULTS, Mode

ALL_MODES = tuple(mode.value for mode in Mode)
DEMO_MODES = (*ALL_MODES, "linear_spec_lora")
"""Entries of conf/mode/demo.yaml."""
NULL = ("null", "none", "")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag with a value (`metavar`), or a switch (no metavar)."""

    name: str
    metavar: str | None
    default: str
    text: str
    key: str | None = None
    """Config key that takes the value; None: a rule below translates it."""
    boolean: bool = False
    """The value is true or false."""
    listed: bool = True
    """False: accepted because the public reference has it, but not in --help."""

    @property
    def dest(self) -> str:
        """Attribute of the parsed flags."""
        return self.name.removeprefix("--").replace("-", "_")


BLOCK_LENGTHS = ", ".join(f"{mode.value} {item.block_length}" for mode, item in MODE_DEFAULTS.items())
THRESHOLDS = ", ".join(
    f"{mode.value} {item.threshold:g}" for mode, item in MODE_DEFAULTS.items() if item.threshold is not None
)
"""Defaults of the modes, for help texts."""

FLAGS: dict[str, tuple[Flag, ...]] = {
    "what is evaluated": (
        Flag("--mode", "MODES", "required", "ar, dlm, linear_spec, a comma list of them, or all"),
        Flag("--model", "MODEL", "nvidia/Nemotron-Labs-Diffusion-8B", "checkpoint folder or hub id", "model.path"),
        Flag("--tokenizer", "DIR", "the model's own", "tokenizer folder", "model.tokenizer"),
        Flag("--quantization", "none|fp8|w4a16", "none", "what is done to weights at load", "model.quantization"),
        Flag("--benchmarks", "LIST", "the suite of ten", "name or name:repeats, with commas", "benchmarks"),
        Flag("--limit", "N", "all", "first N samples of each benchmark", "limit"),
        Flag("--data-dir", "DIR", "bundled, cached or downloaded", "benchmark data, DIR/<benchmark>/", "data_dir"),
        Flag("--demo", None, "off", "the bundled model on its four benchmarks: all modes and linear_spec with LoRA"),
    ),
    "decoding": (
        Flag("--tokens", "N", "8192", "tokens an answer may have", "max_new_tokens"),
        Flag("--block-length", "N", BLOCK_LENGTHS, "tokens per block; ar takes 1 only"),
        Flag("--threshold", "X", THRESHOLDS, "commit confidence; none: no threshold; not for ar"),
        Flag("--temperature", "X", "0", "0 is greedy", "temperature"),
        Flag("--steps", "N", "refused", "no mode has a step count", listed=False),
        Flag(
            "--enable-thinking",
            "BOOL",
            "false",
            "let the model think before it answers",
            "enable_thinking",
            boolean=True,
        ),
        Flag("--max-thinking-tokens", "N", "6000", "thinking budget; acts with thinking on", "max_thinking_tokens"),
        Flag("--no-eos-early-stop", None, "early stop on", "go on after the end token, up to --tokens"),
        Flag("--lora", None, "off", "adapter on the drafter of linear_spec"),
        Flag(
            "--lora-path",
            "DIR",
            "linear_spec_lora in the model's folder or repository, else miscs/linear_spec_lora",
            "the adapter",
        ),
        Flag("--draft-lora-only", "BOOL", "false", "adds _draft_only to the folder's name", listed=False),
        Flag("--max-model-len", "N", "ar 65536, dlm and linear_spec 20480", "prompt and answer of one request at most"),
        Flag("--max-pos-emb", "N", "config.json's", "overrides the context limit of config.json"),
    ),
    "where it runs": (
        Flag(
            "--cluster", "NAME", "slurm", "conf/cluster/NAME.yaml: slurm (image, account), bare (no containers), local"
        ),
        Flag("--local", None, "off", "run here and wait; the same as --cluster local"),
        Flag("--device", "auto|cpu|cuda", "auto", "cpu turns --gpus into a number of CPU workers", "balancer.device"),
        Flag("--gpus", "N", "8; with --local all that are visible", "GPUs per job", "cluster.gpus"),
        Flag("--workers", "N", "one per GPU, else 1", "workers per job", "balancer.workers"),
        Flag(
            "--batch-size",
            "N",
            "1, as the reference",
            "requests a worker decodes together; 16 or 32 are faster",
            "balancer.max_num_seqs",
        ),
        Flag("--partition", "NAME", "$SERVER_PARTITION or batch,backfill", "SLURM partition", "cluster.partition"),
        Flag("--account", "NAME", "$ACCOUNT", "SLURM account", "cluster.account"),
        Flag(
            "--time",
            "TIME",
            "$SERVER_TIME or 04:00:00",
            "time limit of a job, as SLURM writes it",
            "cluster.time_limit",
        ),
        Flag("--image", "FILE", "$CONTAINER_IMAGE", "container image of the jobs", "cluster.container_image"),
        Flag("--jobs-per", "mode|benchmark", "mode", "what one job holds", "jobs_per"),
        Flag("--num-chunks", "N", "1", "jobs that share the samples of each benchmark", "num_chunks"),
        Flag(
            "--max-failed-share",
            "X",
            "0",
            "share of samples that may stay without an answer when servers fail; above it the job fails",
            "client.max_failed_share",
        ),
        Flag("--wait", None, "off", "return when all jobs have ended: 0 all completed, 1 any failed"),
    ),
    "output": (
        Flag("--out-dir", "DIR", "$OUT_DIR or eval_suit_results", "results", "out_dir"),
        Flag("--exp-name", "NAME", "derived, one per mode", "subfolder of the results", "exp_name"),
        Flag("--fresh", None, "off", "a new run folder instead of resuming; nothing is deleted"),
        Flag("--take-over", None, "off", "take a run folder from an owner that cannot be asked (its host is gone)"),
        Flag("--dry-run", None, "off", "print settings, jobs and scripts; write nothing"),
        Flag("--json", None, "off", "with --dry-run: print JSON only"),
        Flag("--setup", "base|worker", "none", "make or update the environment and exit"),
        Flag("--status", "[logs|cancel] DIR", "none", "show how the jobs in DIR stand and exit (--watch, --json)"),
    ),
}
SLURM_ONLY = ("partition", "account", "image", "wait")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; all flags: --help")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all flags. A flag that is not given is absent from its result."""
    made = _Parser(
        prog="eval.sh",
        description="Evaluates modes x benchmarks and leaves scores and tokens per forward in one folder per run.",
        epilog="Settings without a flag: KEY=VALUE as in `python -m trimode.pipeline`. "
        "Exit status: 0 ok, 1 a failed job or submission, 2 an error of the caller.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for title, flags in FLAGS.items():
        group = made.add_argument_group(title)
        for flag in flags:
            text = f"{flag.text} (default: {flag.default})".replace("%", "%%") if flag.listed else argparse.SUPPRESS
            if flag.metavar is None:
                group.add_argument(flag.name, action="store_true", help=text)
            else:
                group.add_argument(flag.name, metavar=flag.metavar, help=text)
    made.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any setting of conf/, e.g. model.dtype=float32"
    )
    return made


def to_overrides(argv: Sequence[str]) -> list[str]:
    """Returns the Hydra overrides that the flags stand for.

    Raises ConfigError for flags that no chosen mode or cluster can use.
    """
    given = vars(parser().parse_intermixed_args(list(argv)))
    extra: list[str] = given.pop("overrides", [])
    for item in extra:
        if "=" not in item and not item.startswith("~"):
            raise ConfigError(f"unknown argument {item!r}; valid: flags (see --help) and KEY=VALUE")
    _refuse(given)
    modes = _modes(given)
    overrides = _choices(given, modes)
    for flags in FLAGS.values():
        for flag in flags:
            if flag.key is not None and flag.dest in given:
                text = str(given[flag.dest])
                overrides.append(f"{flag.key}={boolean(flag.name, text) if flag.boolean else quote(text)}")
    overrides += [f"{name}=true" for name in ("fresh", "take_over", "wait", "dry_run", "json") if name in given]
    if "no_eos_early_stop" in given:
        overrides.append("eos_early_stop=false")
    return overrides + _mode_overrides(given, modes) + extra


def quote(text: str) -> str:
    """Returns `text` as a quoted Hydra value of exactly these characters; only `${...}` stays an interpolation."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def _refuse(given: dict[str, object]) -> None:
    """Raises ConfigError for flags that have no effect, or that exclude each other."""
    if "setup" in given:
        raise ConfigError(f"--setup stands alone and takes base or worker: got {given['setup']!r}")
    if "status" in given:
        raise ConfigError("--status comes first: eval.sh --status [logs|cancel] DIR [--watch] [--json]")
    if "steps" in given:
        raise ConfigError(
            f"--steps: got {given['steps']}, but no mode has a step count: a dlm block ends when its tokens are "
            "committed; valid: --block-length and --threshold"
        )
    if "json" in given and "dry_run" not in given:
        raise ConfigError("--json prints a dry run: give --dry-run too")
    cluster = given.get("cluster")
    if "local" in given and cluster not in (None, "local"):
        raise ConfigError(f"--local and --cluster {cluster}: got both; valid: one of them")
    if _is_local(given):
        for name in SLURM_ONLY[:-1]:
            if name in given:
                raise ConfigError(f"--{name}: jobs on this machine have none; valid: with a SLURM cluster")


def _is_local(given: dict[str, object]) -> bool:
    return "local" in given or given.get("cluster") == "local" or ("demo" in given and "cluster" not in given)


def _modes(given: dict[str, object]) -> list[str]:
    """Returns the names of the chosen entries of `modes`. Raises ConfigError for an unknown one."""
    known = DEMO_MODES if "demo" in given else ALL_MODES
    if "mode" not in given:
        if "demo" in given:
            return list(known)
        raise ConfigError(f"--mode is required; valid: {', '.join(ALL_MODES)}, a comma list of them, or all")
    modes: list[str] = []
    for name in str(given["mode"]).split(","):
        if name != "all" and name not in known:
            raise ConfigError(f"--mode: got {name!r}; valid: {', '.join(known)}, a comma list of them, or all")
        modes += [mode for mode in (known if name == "all" else [name]) if mode not in modes]
    return modes


def _choices(given: dict[str, object], modes: list[str]) -> list[str]:
    """Returns the overrides that choose groups of conf/ and drop the entries that were not chosen."""
    if "demo" in given:
        groups = ["mode=demo", "suite=demo", "model=demo"] + [
            f"~modes.{name}" for name in DEMO_MODES if name not in modes
        ]
    else:
        groups = [f"mode=[{','.join(modes)}]"]
    if "model" in given:
        groups.append("model.name=null")
    cluster = "local" if _is_local(given) else str(given.get("cluster", "slurm"))
    return [*groups, f"cluster={quote(cluster)}"]


def _mode_overrides(given: dict[str, object], modes: list[str]) -> list[str]:
    """Returns the overrides of flags that act on modes: each acts on the chosen modes that can use it."""
    drafting = [name for name in modes if name.startswith("linear_spec")]
    blocks = [name for name in modes if name != "ar"]
    overrides = []
    if "block_length" in given:
        length = given["block_length"]
        if not blocks and length != "1":
            raise ConfigError(f"--block-length with ar: got {length}; valid: 1 (ar decodes token by token)")
        overrides += [f"modes.{name}.block_length={quote(str(length))}" for name in blocks]
    if "threshold" in given:
        _usable("--threshold", blocks, modes, "dlm or linear_spec")
        text = str(given["threshold"])
        value = "null" if text.lower() in NULL else quote(text)
        overrides += [f"modes.{name}.threshold={value}" for name in blocks]
    for name, key in (("max_model_len", "max_model_len"), ("max_pos_emb", "max_position_embeddings")):
        if name in given:
            overrides += [f"modes.{mode}.{key}={quote(str(given[name]))}" for mode in modes]
    with_lora = "lora" in given or any(name.endswith("_lora") for name in modes)
    if "lora" in given:
        _usable("--lora", drafting, modes, "linear_spec")
        overrides += [f"modes.{name}.lora=true" for name in drafting]
    for name, key in (("lora_path", "lora_path"), ("draft_lora_only", "draft_lora_only")):
        if name in given:
            flag = f"--{name.replace('_', '-')}"
            _usable(flag, drafting, modes, "linear_spec")
            value = boolean(flag, str(given[name])) if name == "draft_lora_only" else quote(str(given[name]))
            if not with_lora and value != "false":
                raise ConfigError(f"{flag} acts with an adapter only: give --lora too")
            overrides.append(f"model.{key}={value}")
    return overrides


def _usable(flag: str, by: list[str], modes: list[str], valid: str) -> None:
    if not by:
        raise ConfigError(f"{flag}: got mode {', '.join(modes)}, which cannot use it; valid with {valid}")


def boolean(flag: str, text: str) -> str:
    """Returns `true` or `false`, whatever the case of `text`. Raises ConfigError for anything else."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{flag}: got {text!r}; valid: true or false")
    return text.lower()
