"""The Hydra overrides that the flags of eval.sh stand for.

Values are checked in `checks`, with those of all other settings.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from trimode.core.errors import ConfigError
from trimode.pipeline.config.flag_table import (
    ALL_MODES,
    DEMO_MODES,
    FLAGS,
    MODES,
    NULL,
    SERVER_ONLY,
    SERVERS_OWN,
    SLURM_ONLY,
)


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
    overrides += [
        f"{name}=true" for name in ("fresh", "take_over", "wait", "dry_run", "json", "calibrate") if name in given
    ]
    if "exclusive" in given:
        overrides.append("cluster.exclusive=true")
    if "modules" in given:
        overrides.append(f"cluster.modules=[{','.join(quote(name) for name in str(given['modules']).split(','))}]")
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
    if "serve" in given:
        raise ConfigError("--serve comes first: eval.sh --serve [--model MODEL] [--port N] [flags of the balancer]")
    if "doctor" in given:
        raise ConfigError("--doctor comes first: eval.sh --doctor [--probe] [--json] [the flags of a sweep]")
    if "steps" in given:
        raise ConfigError(
            f"--steps: got {given['steps']}, but no mode has a step count: a dlm block ends when its tokens are "
            "committed; valid: --block-length and --threshold"
        )
    if "json" in given and "dry_run" not in given:
        raise ConfigError("--json prints a dry run: give --dry-run too")
    _refuse_server(given)
    cluster = given.get("cluster")
    if "local" in given and cluster not in (None, "local"):
        raise ConfigError(f"--local and --cluster {cluster}: got both; valid: one of them")
    if _is_local(given):
        for name in SLURM_ONLY:
            if name in given:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: jobs on this machine have none; valid: with a Slurm cluster"
                )


def _refuse_server(given: dict[str, object]) -> None:
    """Raises ConfigError for flags of a server without one, and for flags that a server cannot obey."""
    if "server" not in given:
        for name in SERVER_ONLY:
            if name in given:
                raise ConfigError(f"--{name.replace('_', '-')}: acts with a running server only: give --server too")
        return
    for name in SERVERS_OWN:
        if name in given:
            raise ConfigError(
                f"--{name.replace('_', '-')} with --server: the running server has its own; valid: set it where the "
                "server is started, and tell runs apart by --engine NAME"
            )


def _is_local(given: dict[str, object]) -> bool:
    here = "local" in given or given.get("cluster") == "local"
    return here or ("cluster" not in given and ("demo" in given or "server" in given))


def _modes(given: dict[str, object]) -> list[str]:
    """Returns the names of the chosen entries of `modes`. Raises ConfigError for an unknown one."""
    demo = "demo" in given and "server" not in given
    whole = DEMO_MODES if demo else ALL_MODES
    known = DEMO_MODES if demo else MODES
    if "mode" not in given:
        if "server" in given:
            return ["ar"]
        if "demo" in given:
            return list(known)
        raise ConfigError(f"--mode is required; valid: {', '.join(MODES)}, a comma list of them, or all")
    modes: list[str] = []
    for name in str(given["mode"]).split(","):
        if name != "all" and name not in known:
            raise ConfigError(f"--mode: got {name!r}; valid: {', '.join(known)}, a comma list of them, or all")
        modes += [mode for mode in (whole if name == "all" else [name]) if mode not in modes]
    return modes


def _choices(given: dict[str, object], modes: list[str]) -> list[str]:
    """Returns the overrides that choose groups of conf/ and drop the entries that were not chosen."""
    if "server" in given:
        groups = [f"mode=[{','.join(modes)}]", "balancer=openai", f"balancer.url={quote(str(given['server']))}"]
        groups += ["model=served"] if "model" not in given else []
        groups += ["suite=demo"] if "demo" in given else []
    elif "demo" in given:
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
    drafting = [name for name in modes if name.startswith(("linear_spec", "auto"))]
    blocks = [name for name in modes if name != "ar"]
    overrides = []
    if "block_length" in given:
        length = given["block_length"]
        if not blocks and length != "1":
            raise ConfigError(f"--block-length with ar: got {length}; valid: 1 (ar decodes token by token)")
        overrides += [f"modes.{name}.block_length={quote(str(length))}" for name in blocks]
    if "threshold" in given:
        _usable("--threshold", blocks, modes, "dlm, linear_spec or auto")
        text = str(given["threshold"])
        value = "null" if text.lower() in NULL else quote(text)
        overrides += [f"modes.{name}.threshold={value}" for name in blocks]
    for name, key in (("max_model_len", "max_model_len"), ("max_pos_emb", "max_position_embeddings")):
        if name in given:
            overrides += [f"modes.{mode}.{key}={quote(str(given[name]))}" for mode in modes]
    with_lora = "lora" in given or any(name.endswith("_lora") for name in modes)
    if "lora" in given:
        _usable("--lora", drafting, modes, "linear_spec or auto")
        overrides += [f"modes.{name}.lora=true" for name in drafting]
    for name, key in (("lora_path", "lora_path"), ("draft_lora_only", "draft_lora_only")):
        if name in given:
            flag = f"--{name.replace('_', '-')}"
            _usable(flag, drafting, modes, "linear_spec or auto")
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
