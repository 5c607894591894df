"""Plans the job that asks a running server. Names and identity hold nothing of its address, so it may move."""

from __future__ import annotations

import dataclasses

from trimode.core.protocol import Quantization
from trimode.pipeline.config.schema import Backend, Config
from trimode.pipeline.plan.identity import GREEDY, PROMPTS
from trimode.pipeline.plan.names import LABEL_BYTES, MAX_BYTES, label, shortened
from trimode.pipeline.spec import DecodeSpec, ModelSpec, ServerSpec

SERVERS_OWN = 0
"""Stands for the block length of a run whose server has its own."""
NOT_SENT = ("lora", "lora_path", "block_length", "threshold", "max_thinking_tokens", "eos_early_stop")
"""Decoding settings that a server does not get; they are no part of a run's identity."""


def server_decode(decode: DecodeSpec) -> DecodeSpec:
    """Returns how a server is asked: without the settings of a mode, which it does not get."""
    return dataclasses.replace(
        decode, block_length=SERVERS_OWN, threshold=None, lora=False, lora_path=None, max_thinking_tokens=None
    )


def server_model(name: str, config: Config) -> ModelSpec:
    """Returns the model as far as it is known here: its name."""
    return ModelSpec(
        path=name,
        tokenizer=None,
        dtype=config.model.dtype,
        max_position_embeddings=None,
        quantization=Quantization.none,
        batch_invariant=False,
    )


def server_exp_name(model: str, server: ServerSpec, decode: DecodeSpec) -> str:
    """Returns the name of a run whose user gave none: model, engine, mode, tokens, temperature."""
    settings = f"_{server.engine}_{decode.mode.value}_tok{decode.max_new_tokens}_temp{decode.temperature:g}"
    name = label(model)
    whole = name + settings
    return whole if len(whole.encode()) <= MAX_BYTES else shortened(name, LABEL_BYTES) + settings


def server_identity(model: str, server: ServerSpec, decode: DecodeSpec, starting_seed: int) -> dict[str, object]:
    """Returns everything that changes the answers of a run, as far as it is known here: not the address."""
    decoding = {name: value for name, value in dataclasses.asdict(decode).items() if name not in NOT_SENT}
    identity: dict[str, object] = {
        "backend": Backend.openai.value,
        "model": model,
        "engine": server.engine,
        "fields": server.fields,
        **decoding,
        "mode": decode.mode.value,
        "starting_seed": starting_seed,
        "prompts": PROMPTS,
    }
    return identity | GREEDY if decode.temperature == 0 else identity
