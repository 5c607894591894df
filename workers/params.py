"""Checks the flat fields of one request and turns them into DecodeParams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trimode.core.errors import GenerationError
from trimode.core.protocol import DECODE_FIELDS, DEFAULT_MAX_NEW_TOKENS, DecodeParams
from trimode.workers.decode.registry import MODES

PROMPT_FIELDS = ("prompt_ids", "messages", "prompt")
KNOWN_FIELDS = DECODE_FIELDS | {"id", "request_id", *PROMPT_FIELDS}
MAX_BLOCK_LENGTH = 1024
MAX_STOPS = 32


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the request's fields. A field that is absent or null has its default."""

    raw: Mapping[str, object]

    def number(self, name: str, default: float, low: float, high: float = math.inf) -> float:
        """Returns a finite float in [low, high]."""
        value = self.raw.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise GenerationError(f"{name}: got {value!r}; valid: a number")
        if not low <= value <= high:
            raise GenerationError(f"{name}: got {value!r}; valid: {_interval(low, high)}")
        return float(value)

    def integer(self, name: str, default: int, low: int, high: float = math.inf) -> int:
        """Returns an integer in [low, high]; 3.0 counts as 3."""
        value = self.raw.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise GenerationError(f"{name}: got {value!r}; valid: an integer")
        if not low <= value <= high:
            raise GenerationError(f"{name}: got {value!r}; valid: {_interval(low, high)}")
        return value

    def flag(self, name: str) -> bool:
        """Returns a boolean, by default False."""
        value = self.raw.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise GenerationError(f"{name}: got {value!r}; valid: true, false")
        return value


def _interval(low: float, high: float) -> str:
    return f">= {low}" if high == math.inf else f"{low} to {high}"


def _mode(raw: Mapping[str, object]) -> str:
    mode = raw.get("mode")
    if not isinstance(mode, str) or mode not in MODES:
        raise GenerationError(f"mode: got {mode!r}; valid: {', '.join(MODES)}")
    return mode


def _threshold(raw: Mapping[str, object], mode: str) -> float | None:
    """The mode's default if absent; null means none in dlm, and 0 (one draft pass) in linear_spec."""
    if "threshold" not in raw:
        return MODES[mode].defaults.threshold
    value = raw["threshold"]
    if value is None:
        return 0.0 if mode == "linear_spec" else None
    return _Fields(raw).number("threshold", 0.0, 0.0, 1.0)


def _stops(raw: Mapping[str, object]) -> tuple[str, ...]:
    value = raw.get("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list | tuple)
        or not all(isinstance(s, str) and s for s in stops)
        or len(stops) > MAX_STOPS
    ):
        raise GenerationError(f"stop: got {value!r}; valid: a non-empty string or a list of up to {MAX_STOPS} of them")
    return tuple(stops)


def _token_ids(raw: Mapping[str, object], name: str) -> tuple[int, ...]:
    value = raw.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value
    ):
        raise GenerationError(f"{name}: got {value!r}; valid: a list of token ids")
    return tuple(value)


def parse_params(raw: Mapping[str, object]) -> DecodeParams:
    """Returns the DecodeParams of one request's flat fields.

    Raises:
        GenerationError: status 400; names the field, what came and what is valid.
    """
    if unknown := sorted(set(raw) - KNOWN_FIELDS):
        raise GenerationError(
            f"unknown field {', '.join(map(repr, unknown))}; valid: {', '.join(sorted(KNOWN_FIELDS))}"
        )
    mode = _mode(raw)
    fields = _Fields(raw)
    fields.flag("enable_thinking")  # acts on the prompt and the budget; only checked here
    acceptance = raw.get("acceptance") or "rejection"
    if acceptance not in ("rejection", "equality"):
        raise GenerationError(f"acceptance: got {acceptance!r}; valid: 'rejection', 'equality'")
    budget = raw.get("max_thinking_tokens")
    end_think = raw.get("end_think_token_id")
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    if top_p == 0.0:
        raise GenerationError("top_p: got 0; valid: above 0, up to 1")
    return DecodeParams(
        mode=mode,
        max_new_tokens=fields.integer("max_new_tokens", DEFAULT_MAX_NEW_TOKENS, 1),
        block_length=fields.integer("block_length", MODES[mode].defaults.block_length, 1, MAX_BLOCK_LENGTH),
        threshold=_threshold(raw, mode),
        temperature=fields.number("temperature", 0.0, 0.0, 100.0),
        top_p=top_p,
        top_k=max(fields.integer("top_k", 0, -1), 0),  # other servers write -1 for off
        min_p=fields.number("min_p", 0.0, 0.0, 1.0),
        repetition_penalty=fields.number("repetition_penalty", 1.0, 0.01, 100.0),
        seed=fields.integer("seed", 0, -(1 << 63), (1 << 63) - 1),
        stop=_stops(raw),
        stop_token_ids=_token_ids(raw, "stop_token_ids"),
        ignore_eos=fields.flag("ignore_eos"),
        max_thinking_tokens=None if budget is None else fields.integer("max_thinking_tokens", 0, 0),
        end_think_token_id=None if end_think is None else fields.integer("end_think_token_id", 0, 0),
        lora=fields.flag("lora"),
        acceptance=str(acceptance),
        logprobs=fields.flag("logprobs"),
    )


def check_fits(num_prompt: int, params: DecodeParams, limit: int, *, has_adapter: bool) -> None:
    """Refuses a request that a model with a context of `limit` tokens can never run. GenerationError (400)."""
    total = num_prompt + params.max_new_tokens
    if total > limit:
        raise GenerationError(
            f"context: {num_prompt} prompt tokens + max_new_tokens {params.max_new_tokens} = {total}; "
            f"valid: at most {limit}"
        )
    if params.lora and not has_adapter:
        raise GenerationError("lora: got true, but no adapter is loaded; valid: false, or start with --lora DIR")
