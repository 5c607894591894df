"""Counter-based randomness: one uniform number for each (seed, position, purpose), the same in any company.

Knows nothing of distributions, batches or devices.
"""

from __future__ import annotations

import hashlib
import struct


def uniform(seed: int, position: int, purpose: str) -> float:
    """A number in (0, 1), a pure function of its arguments.

    Args:
        seed: the request's seed.
        position: absolute position of the token the number is for.
        purpose: what it is for, e.g. `decode` or `draft0`.
    """
    key = struct.pack("<qq", seed, position) + purpose.encode()
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return ((bits >> 12) + 0.5) / (1 << 52)
