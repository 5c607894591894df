"""Builds the typed config from Hydra's choices in conf/, and parses the texts in it: benchmarks and the time limit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from trimode.core.errors import ConfigError
from trimode.core.project import CONF_DIR, PROJECT_DIR
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.config.hydra_errors import describe_error
from trimode.pipeline.config.schema import BenchmarkChoice, ClusterConfig, ComposedConfig, Config

TIME_FORMATS = "minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S"


def register() -> None:
    """Registers the schema and the resolver `project:` (a path inside this project) with Hydra. Safe to call again."""
    ConfigStore.instance().store(name="schema", node=ComposedConfig)
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT_DIR / str(path)), replace=True)


def compose(overrides: Sequence[str]) -> Config:
    """Returns the config that Hydra overrides choose. Raises ConfigError with what Hydra's message means."""
    register()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return to_config(hydra_compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(describe_error(error)) from error


def to_config(node: DictConfig) -> Config:
    """Returns the typed config of a composed node.

    Raises OmegaConf's errors for missing or mistyped values, ConfigError for a benchmark or time that cannot be parsed.
    """
    composed = OmegaConf.to_object(node)
    assert isinstance(composed, ComposedConfig)
    parsed = {
        "benchmarks": parse_benchmarks(composed.benchmarks),
        "cluster": ClusterConfig(**vars(composed.cluster), time_limit_min=parse_time(composed.cluster.time_limit)),
    }
    return Config(**vars(composed) | parsed)


def parse_benchmarks(value: object) -> tuple[BenchmarkChoice, ...]:
    """Returns the choices in a list, or text with commas, of `name` or `name:repeats`. Raises ConfigError."""
    if isinstance(value, str):
        items: Sequence[object] = value.split(",")
    elif isinstance(value, Sequence):
        items = value
    else:
        raise ConfigError(f"benchmarks: got {value!r}; valid: name or name:repeats, a list or with commas")
    parsed: dict[str, int] = {}
    for item in items:
        name, colon, count = str(item).strip().partition(":")
        if not name:
            raise ConfigError(f"benchmarks: got an empty name in {value!r}; valid: name or name:repeats with commas")
        load_benchmark(name)
        if colon and not re.fullmatch(r"[1-9][0-9]{0,5}", count):
            raise ConfigError(f"repeats of {name}: got {count!r}; valid: a whole number from 1")
        if name in parsed:
            raise ConfigError(f"benchmarks: each stands once; got {name} twice; use {name}:N for repeats")
        parsed[name] = int(count) if colon else 1
    return tuple(BenchmarkChoice(name, repeats) for name, repeats in parsed.items())


def parse_time(text: str) -> int:
    """Returns the minutes, rounded up, of a time as Slurm writes it. Raises ConfigError."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise ConfigError(f"time limit: got {text!r}; valid: {TIME_FORMATS}")
    days, *clock = (None if part is None else int(part) for part in match.groups())
    first, second, third = clock
    assert first is not None
    if days is not None:  # D-H[:M[:S]]
        seconds = ((days * 24 + first) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:  # H:M:S
        seconds = (first * 60 + (second or 0)) * 60 + third
    else:  # M[:S]
        seconds = first * 60 + (second or 0)
    if seconds <= 0:
        raise ConfigError(f"time limit: got {text!r}; valid: above 0, as {TIME_FORMATS}")
    return math.ceil(seconds / 60)
