"""How answers are decoded in a chat: settings, their defaults per mode, and the request fields they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from trimode.core.errors import ConfigError

LORA_SUFFIX = "_lora"
"""`linear_spec_lora` is the mode linear_spec with the adapter on its drafter, and so is `auto_lora`."""
DRAFTING = ("linear_spec", "auto")
"""Modes whose drafter can have the adapter."""
BLOCK_LENGTHS = {"ar": 1, "dlm": 32, "linear_spec": 32, "auto": 32}
THRESHOLDS = {"dlm": 0.9, "linear_spec": 0.0, "auto": 0.0}
"""Defaults of the public reference's chat scripts. Other modes have their own."""
NONE = ("none", "null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How answers are decoded. None stands for the mode's, or the server's, own default."""

    mode: str | None = None
    """None only with a server, which then uses its default mode."""
    max_new_tokens: int = 512
    block_length: int | None = None
    threshold: float | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    thinking: bool = False
    max_thinking_tokens: int | None = None

    def decode_fields(self) -> dict[str, object]:
        """Returns the request fields that every server of OpenAI's API knows, without `max_tokens`."""
        fields: dict[str, object] = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        return {name: value for name, value in fields.items() if value is not None}

    def mode_fields(self) -> dict[str, object]:
        """Returns the request fields of this project: mode, block, threshold, adapter, top_k, thinking."""
        fields: dict[str, object] = {"enable_thinking": self.thinking, "top_k": self.top_k}
        if self.mode is None:
            fields |= {"block_length": self.block_length, "threshold": self.threshold}
        else:
            name = self.mode.removesuffix(LORA_SUFFIX)
            block = BLOCK_LENGTHS.get(name) if self.block_length is None or name == "ar" else self.block_length
            threshold = THRESHOLDS.get(name) if self.threshold is None or name == "ar" else self.threshold
            fields |= {"mode": name, "lora": self.uses_adapter, "block_length": block, "threshold": threshold}
        if self.thinking:
            fields["max_thinking_tokens"] = self.max_thinking_tokens
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def uses_adapter(self) -> bool:
        """True if the mode drafts with the adapter."""
        return self.mode is not None and self.mode.endswith(LORA_SUFFIX)

    def with_value(self, name: str, text: str, modes: Sequence[str]) -> Settings:
        """Returns the settings with one value read from text. Raises ConfigError for an unknown name or value."""
        name = name.replace("-", "_")
        kinds = {item.name: str(item.type) for item in dataclasses.fields(self)}
        if name not in kinds:
            raise ConfigError(f"setting: got {name!r}; valid: {', '.join(kinds)}")
        if name == "mode":
            return dataclasses.replace(self, mode=checked_mode(text, modes))
        kind = kinds[name]
        if "None" in kind and text.lower() in NONE:
            return dataclasses.replace(self, **{name: None})  # type: ignore[arg-type]
        return checked(dataclasses.replace(self, **{name: _parsed(name, kind, text)}))  # type: ignore[arg-type]


def _parsed(name: str, kind: str, text: str) -> object:
    try:
        if "bool" in kind:
            return {"on": True, "true": True, "off": False, "false": False}[text.lower()]
        return int(text) if "int" in kind else float(text)
    except (ValueError, KeyError):
        valid = "on or off" if "bool" in kind else "a whole number" if "int" in kind else "a number"
        raise ConfigError(f"{name}: got {text!r}; valid: {valid}") from None


def checked_mode(mode: str, modes: Sequence[str]) -> str:
    """Returns the mode if it is one of `modes`. Raises ConfigError."""
    if mode not in modes:
        raise ConfigError(f"mode: got {mode!r}; valid: {', '.join(modes) or 'none, the server names no modes'}")
    return mode


def checked(settings: Settings) -> Settings:
    """Returns the settings if each value is possible. Raises ConfigError. The worker checks the rest."""
    rules = {
        "max_new_tokens": (settings.max_new_tokens >= 1, "a whole number from 1"),
        "block_length": (settings.block_length is None or settings.block_length >= 1, "a whole number from 1"),
        "threshold": (settings.threshold is None or 0 <= settings.threshold <= 1, "from 0 up to 1"),
        "temperature": (0 <= settings.temperature <= 100, "0 (greedy) or more"),
        "top_p": (settings.top_p is None or 0 < settings.top_p <= 1, "above 0 up to 1"),
        "max_thinking_tokens": (settings.max_thinking_tokens is None or settings.max_thinking_tokens >= 1, "from 1"),
    }
    for name, (holds, valid) in rules.items():
        if not holds:
            raise ConfigError(f"{name}: got {getattr(settings, name)}; valid: {valid}")
    return settings
