"""Counter-based randomness: one uniform number per (request, position, purpose), whatever else is in the batch."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence


def request_seed(seed: int, prompt_ids: Sequence[int]) -> int:
    """Returns the seed of a request's random numbers: two prompts draw independently although they name one seed.

    The same seed and prompt give the same numbers, alone, in any batch and after a restart.

    Args:
        seed: the seed that the request names, a signed 64-bit integer.
        prompt_ids: the whole prompt.
    """
    key = struct.pack("<q", seed) + array("q", prompt_ids).tobytes()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)


def uniform(seed: int, position: int, purpose: str) -> float:
    """Returns a number in (0, 1), a pure function of its arguments.

    Args:
        seed: of the request, see `request_seed`.
        position: absolute position of the token that is drawn.
        purpose: what the number is for, e.g. `decode` or `draft0`; numbers of two purposes are independent.
    """
    key = struct.pack("<qq", seed, position) + purpose.encode()
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return ((bits >> 12) + 0.5) / (1 << 52)
