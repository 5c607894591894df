"""Decides how plain bfloat16 weights are held in memory: 16 bits each, or 12 without loss."""

from __future__ import annotations

import torch
from trimode.core.errors import ConfigError
from trimode.core.protocol import WeightStorage, WorkerSettings
from trimode.kernels.linear import compact, onednn


def choose_storage(settings: WorkerSettings, device: torch.device) -> tuple[bool, str]:
    """Returns True for packed12, and why.

    ConfigError if packed12 is asked for where it cannot run, or another value came.
    """
    valid = [kind.value for kind in WeightStorage]
    asked = settings.weight_storage
    if asked not in valid:
        raise ConfigError(f"weight_storage: got {asked!r}; valid: {', '.join(valid)}")
    if asked == WeightStorage.bf16:
        return False, "bf16: asked for"
    lacking = _lacking(settings, device)
    if asked == WeightStorage.packed12:
        if lacking is not None:
            raise ConfigError(f"weight_storage: got packed12; valid here: auto, bf16 ({lacking})")
        return True, "packed12: asked for"
    if lacking is not None:
        return False, f"{settings.dtype}: {lacking}"
    if onednn.has_amx() and not settings.batch_invariant:
        return False, "bf16: this CPU has AMX"
    return True, "packed12: a quarter less to read, and the same bits; measured to be no slower at any number of rows"


def _lacking(settings: WorkerSettings, device: torch.device) -> str | None:
    """Returns None if the products with 12-bit weights run, otherwise the reason."""
    if device.type != "cpu":
        return f"12-bit weights have no kernel for {device.type}"
    if settings.dtype != "bfloat16":
        return f"12-bit weights are made from bfloat16 only, got {settings.dtype}"
    return compact.missing()
