"""Counter-based randomness: one uniform number for each (seed, position, purpose), whatever else is in the batch."""

from __future__ import annotations

import hashlib
import struct


def uniform(seed: int, position: int, purpose: str) -> float:
    """Returns a number in (0, 1), a pure function of its arguments.

    Args:
        seed: the request's seed.
        position: absolute position of the token that is drawn.
        purpose: what the number is for, e.g. `decode` or `draft0`; numbers of two purposes are independent.
    """
    key = struct.pack("<qq", seed, position) + purpose.encode()
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return ((bits >> 12) + 0.5) / (1 << 52)
