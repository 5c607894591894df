"""What a client asks and what it got back, without HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from trimode.pipeline.spec import DecodeSpec

REQUEST = "request"
"""error_kind of a sample that the server refused: asking again gives the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one sample got: the text and its ledger, or an error."""

    request_id: str
    text: str = ""
    reasoning: str | None = None
    """The reply's reasoning_content, if the server splits it off."""
    finish_reason: str = "error"
    """stop | length | error."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int | None = None
    forwards: dict[str, int] = field(default_factory=dict)
    nfe: int = 0
    acceptance_lengths: list[int] = field(default_factory=list)
    queue_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    started_at: float = 0.0
    """Unix time when the answer's (last) attempt was sent."""
    ended_at: float = 0.0
    error: str | None = None
    error_kind: str | None = None
    """`infrastructure` or `request` when there is an error."""


def mode_fields(decode: DecodeSpec) -> dict[str, object]:
    """The flat fields that choose how a request is decoded; any client may send them as extra body."""
    fields: dict[str, object] = {
        "mode": decode.mode.value,
        "block_length": decode.block_length,
        "threshold": decode.threshold,
        "lora": decode.lora,
    }
    if decode.enable_thinking and decode.max_thinking_tokens is not None:
        fields["max_thinking_tokens"] = decode.max_thinking_tokens
    if not decode.eos_early_stop:
        fields["ignore_eos"] = True
    return fields


Ask = Callable[[str, str, int], Awaitable[Answer]]
"""(name, prompt, seed) -> answer: what runs a sample, be it over HTTP or in this process."""
