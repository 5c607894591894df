"""Rules of an evaluation that asks a running server: what is the server's own cannot be set here."""

from __future__ import annotations

import re

from trimode.core.errors import ConfigError
from trimode.core.protocol import Quantization, WeightStorage
from trimode.pipeline.config.schema import Backend, BalancerConfig, Config
from trimode.pipeline.config.submission_checks import at_least
from trimode.pipeline.spec import ClientKind

ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,39}")
OWN_FIELDS = {
    "messages": "is the sample's prompt",
    "model": "is --model",
    "seed": "is the sample's",
    "n": "is 1: every sample is a request",
    "stream": "is false: an answer is read as a whole",
    "max_tokens": "is --tokens; valid: null, where the server takes max_completion_tokens instead",
    "temperature": "is --temperature; valid: null, where the server takes none",
    "top_p": "is top_p; valid: null, where the server takes none",
}
"""Request fields that `balancer.fields` cannot set, and why."""
MAY_BE_NULL = ("max_tokens", "temperature", "top_p", "seed")
"""Those that it can leave out."""


def check_backend(config: Config) -> None:
    """Checks the settings of the backend. Raises ConfigError for the first rule that is broken."""
    balancer = config.balancer
    if balancer.backend is Backend.trimode:
        _check_unused(balancer)
        return
    if not balancer.url:
        raise ConfigError("balancer.url: got none; valid: the address of the server (--server)")
    if not ENGINE_NAME.fullmatch(balancer.engine):
        raise ConfigError(f"balancer.engine: got {balancer.engine!r}; valid: up to 40 letters, digits, . -")
    at_least("balancer.max_in_flight", balancer.max_in_flight, 1)
    for name, value in balancer.fields.items():
        if name in OWN_FIELDS and not (value is None and name in MAY_BE_NULL):
            raise ConfigError(f"balancer.fields.{name}: got {value!r}, but it {OWN_FIELDS[name]}")
    if config.calibrate:
        raise ConfigError("calibrate: the time of a running server is its own; valid: a sweep with --limit")
    if len(config.modes) > 1:
        raise ConfigError(
            f"a running server decodes in one way: got the modes {', '.join(config.modes)}; valid: one --mode, the way "
            "it does, for names and reports"
        )
    if config.client.kind is not ClientKind.embedded:
        raise ConfigError(f"client {config.client.kind.value}: it asks this project's balancer; valid: embedded")
    _check_own(config)


def _check_unused(balancer: BalancerConfig) -> None:
    for name in ("url", "api_key_file", "fields"):
        if getattr(balancer, name):
            raise ConfigError(f"balancer.{name}: acts with a running server only; valid: balancer=openai (--server)")


def _check_own(config: Config) -> None:
    """Checks that nothing is set which only the server can decide."""
    model, mode = config.model, next(iter(config.modes.values()), None)
    own = {
        "model.tokenizer": model.tokenizer is not None,
        "model.revision": model.revision is not None,
        "model.quantization": model.quantization is not Quantization.none,
        "model.weight_storage": model.weight_storage is not WeightStorage.auto,
        "model.lora_path": model.lora_path is not None,
        "an adapter (lora)": mode is not None and mode.lora,
        "max_position_embeddings": mode is not None and mode.max_position_embeddings is not None,
    }
    for name, given in own.items():
        if given:
            raise ConfigError(f"{name}: a running server has its own; valid: set it where the server is started")
    if not config.eos_early_stop:
        raise ConfigError(
            "eos_early_stop false: no standard field says so to a server; valid: the server's own field, for SGLang "
            "and vLLM balancer.fields.ignore_eos=true"
        )
