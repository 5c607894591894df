"""Config class of the stand-in checkpoint: what transformers needs to find the model class, and nothing more.

Written for the tests; not the released file.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class NemotronLabsDiffusionConfig(PretrainedConfig):
    """Every key of config.json becomes an attribute."""

    model_type = "nemotron_labs_diffusion"

    def __init__(self, rope_parameters: dict[str, Any] | None = None, **keys: Any) -> None:
        keys.pop("rope_theta", None)
        super().__init__(**keys)
        self.rope_parameters = rope_parameters or {}
