"""The answer of one sample, and the type of what asks for it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trimode.core.errors import ConfigError
from trimode.core.protocol import NO_COST, Cost
from trimode.pipeline.spec import DecodeSpec

REQUEST = "request"
"""error_kind of a sample that the server refused: asking again gives the same error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one sample got: the text and its cost, or an error."""

    request_id: str
    text: str = ""
    reasoning: str | None = None
    """The reply's reasoning_content, if the server splits it off."""
    finish_reason: str = "error"
    """stop | length | error."""
    cost: Cost = NO_COST
    reasoning_tokens: int | None = None
    started_at: float = 0.0
    """Unix time when the answer's (last) attempt was sent."""
    ended_at: float = 0.0
    error: str | None = None
    error_kind: str | None = None
    """`infrastructure` or `request` if there is an error."""


def check_context(decode: DecodeSpec, max_model_len: int) -> None:
    """Raises ConfigError if answers may be so long that no prompt fits into the context of the loaded checkpoint."""
    if decode.max_new_tokens >= max_model_len:
        raise ConfigError(
            f"max_new_tokens leaves room for a prompt: got {decode.max_new_tokens} with a context of {max_model_len} "
            f"tokens ({decode.mode.value}); valid: below {max_model_len}, or a larger context (--max-pos-emb)"
        )


def mode_fields(decode: DecodeSpec) -> dict[str, object]:
    """Returns the flat request fields that choose how a request is decoded."""
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


def sample_seed(seed: int, benchmark: str, position: int) -> int:
    """Returns the seed that is sent with one sample: other samples and repeats draw other random numbers.

    Args:
        seed: of the run (the number in `output-rs<seed>.jsonl`), one per repeat.
        benchmark: name of the benchmark.
        position: row of the sample in the benchmark's split, from 0.

    Returns:
        The first 53 bits of the BLAKE2b digest of `<seed>/<benchmark>/<position>`. Every JSON reader keeps 53 bits.
    """
    digest = hashlib.blake2b(f"{seed}/{benchmark}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 11


Ask = Callable[[str, str, int], Awaitable[Answer]]
"""(name, prompt, seed of the sample) -> answer: runs one sample, over HTTP or in this process."""


def not_asked(name: str, position: int, problem: str) -> Answer:
    """Returns the answer of a row that cannot be asked. It is final: asking would not help."""
    now = time.time()
    return Answer(
        request_id=name,
        cost=NO_COST,
        started_at=now,
        ended_at=now,
        error=f"row {position + 1} of the data {problem}",
        error_kind=REQUEST,
    )
