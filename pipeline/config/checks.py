"""Refuses a config that breaks a rule, before anything starts: messages name the rule, what came and what is valid.

Only values are compared here. Paths are looked up in `plan.survey`, data and tools in `launch.preflight`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterator

from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode, Quantization
from trimode.pipeline.config.schema import Backend, Config, ModeConfig
from trimode.pipeline.config.server_checks import check_backend
from trimode.pipeline.config.submission_checks import at_least, check_submission, stays_in_its_line
from trimode.pipeline.spec import ClientKind, Device

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

MAX_NAME = 255
"""Most characters of a folder's name."""


def check(config: Config) -> None:
    """Checks every rule. Raises ConfigError for the first that is broken."""
    _check_texts(config)
    if not config.modes:
        raise ConfigError("a sweep has at least one mode: got none; valid: ar, dlm, linear_spec, auto, all")
    for name, mode in config.modes.items():
        if not SAFE_NAME.fullmatch(name):
            raise ConfigError(f"name of a mode entry: got {name!r}; valid: letters, digits, _ . -")
        _check_mode(name, mode, config.max_new_tokens)
    _check_decoding(config)
    _check_cluster(config)
    check_submission(config)
    check_backend(config)
    if config.exp_name is not None and (not SAFE_NAME.fullmatch(config.exp_name) or len(config.exp_name) > MAX_NAME):
        raise ConfigError(
            f"exp_name is one folder's name: got {config.exp_name!r}; "
            f"valid: up to {MAX_NAME} letters, digits, _ . - and first a letter or digit"
        )
    if not config.model.path and config.balancer.backend is Backend.trimode:
        raise ConfigError("model: got an empty path; valid: a checkpoint folder or a hub id")
    if config.model.quantize_head and config.model.quantization is Quantization.none:
        raise ConfigError("model.quantize_head: got true with model.quantization none; valid: with fp8, w8a16 or w4a16")


def _check_texts(config: Config) -> None:
    """Checks that every text can be written to a file, and that those of the batch script stay in their line."""
    for name, text in _texts("", config):
        if name.startswith("cluster."):
            # Lines of the set-up may be indented.
            stays_in_its_line(name, text.replace("\t", " ") if name.startswith("cluster.setup") else text)
        if "\0" in text or any(unicodedata.category(char) == "Cs" for char in text):
            raise ConfigError(f"{name} is text in UTF-8 without zero bytes: got {text!r}")


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yields every text in a value with its name: `cluster.setup.0`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        items = []
        if isinstance(value, str):
            yield name, value
    for key, item in items:
        yield from _texts(f"{name}.{key}" if name else key, item)


def _check_mode(name: str, mode: ModeConfig, max_new_tokens: int) -> None:
    """Checks one entry of `modes`."""
    at_least(f"modes.{name}.block_length", mode.block_length, 1)
    if mode.mode is Mode.ar and mode.block_length != 1:
        raise ConfigError(f"block_length of ar: got {mode.block_length}; valid: 1 (ar decodes token by token)")
    if mode.threshold is not None:
        if mode.mode is Mode.ar:
            raise ConfigError(f"threshold of ar: got {mode.threshold:g}; valid: null (ar has no threshold)")
        if not 0 <= mode.threshold <= 1:
            raise ConfigError(f"threshold of {name}: got {mode.threshold:g}; valid: from 0 up to 1, or null")
    if mode.lora and mode.mode not in (Mode.linear_spec, Mode.auto):
        raise ConfigError(
            f"lora in {name}: the adapter drafts, which only linear_spec and auto do; got mode {mode.mode.value}"
        )
    for field in ("max_model_len", "max_position_embeddings"):
        at_least(f"modes.{name}.{field}", getattr(mode, field), 1)
    if mode.max_model_len is not None:
        if mode.max_position_embeddings is not None and mode.max_model_len > mode.max_position_embeddings:
            raise ConfigError(
                f"max_model_len of {name} stays within its max_position_embeddings: "
                f"got {mode.max_model_len}; valid: up to {mode.max_position_embeddings}"
            )
        if max_new_tokens >= mode.max_model_len:
            raise ConfigError(
                f"max_new_tokens leaves room for a prompt: got {max_new_tokens} with max_model_len "
                f"{mode.max_model_len} of {name}; valid: below {mode.max_model_len}, or a larger max_model_len"
            )


def _check_decoding(config: Config) -> None:
    """Checks the decoding settings that all modes share."""
    at_least("max_new_tokens", config.max_new_tokens, 1)
    at_least("max_thinking_tokens", config.max_thinking_tokens, 1)
    at_least("starting_seed", config.starting_seed, 0)
    at_least("limit", config.limit, 1)
    at_least("num_chunks", config.num_chunks, 1)
    if config.num_chunks > 1 and config.client.kind is ClientKind.nemo_skills:
        raise ConfigError(
            f"num_chunks with client nemo_skills: got {config.num_chunks}; valid: 1 (its files are not shared)"
        )
    if not (math.isfinite(config.temperature) and config.temperature >= 0):
        raise ConfigError(f"temperature: got {config.temperature}; valid: 0 (greedy) or more")
    if not 0 < config.top_p <= 1:
        raise ConfigError(f"top_p: got {config.top_p}; valid: above 0 up to 1")


def _check_cluster(config: Config) -> None:
    """Checks resources, workers and client."""
    cluster, balancer, client = config.cluster, config.balancer, config.client
    at_least("cluster.gpus", cluster.gpus, 1)
    at_least("balancer.workers", balancer.workers, 1)
    at_least("balancer.max_num_seqs", balancer.max_num_seqs, 1)
    at_least("client.max_concurrent_requests", client.max_concurrent_requests, 1)
    at_least("client.num_scorers", client.num_scorers, 1)
    if not 0 <= client.max_failed_share <= 1:
        raise ConfigError(f"client.max_failed_share: got {client.max_failed_share}; valid: a share from 0 to 1")
    for name, value in (
        ("client.request_timeout_s", client.request_timeout_s),
        ("balancer.kv_cache_gb", balancer.kv_cache_gb),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}: got {value}; valid: above 0")
    if not 0 <= balancer.start_timeout_s < math.inf:
        raise ConfigError(f"balancer.start_timeout_s: got {balancer.start_timeout_s}; valid: seconds, 0 or more")
    if balancer.device is not Device.cpu and cluster.gpus is not None and (balancer.workers or 0) > cluster.gpus:
        raise ConfigError(f"workers: each has a GPU of its own; got {balancer.workers} for {cluster.gpus} GPUs")
