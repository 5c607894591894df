"""bfloat16 weights in 12 bits each, without loss: sign, mantissa, and one of 16 exponents in 4 bits.

The exponents of a trained matrix lie close together: all but about one weight in 10,000 have one of the 16 most
frequent neighbouring exponents. A step (`blocks`) is stored in 3 vectors of 16-bit words. Words of vectors 0 to 2 have
the sign in bit 15 and code and mantissa in bits 10 to 0, where bfloat16 has them. Their bits 14 to 11 carry the weights
of vector 3 in parts: code | mantissa 6 to 3 | sign, mantissa 2 to 0. A step with a weight of another exponent is an
exception: its 128 weights are kept as they are, in a list beside.

Codes are read as the exponents 112 to 127, so that unpacking needs no addition. The weights are therefore stored times
a power of two, and sums are multiplied with its inverse. Both are exact while sums stay inside the range of normal
float32 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.kernels.linear.blocks import STEP_INPUTS, blocks_at_once, from_steps, num_blocks, to_steps

CODES = 16
FIRST_READ = 112
"""The exponent that code 0 is read as."""
MAX_EXCEPTIONS = 1 / 8
"""Largest share of steps that are exceptions. With more the bytes saved do not pay for reading two lists."""
_KEPT, _FIXED = 0x87FF, FIRST_READ << 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed12:
    """A packed matrix. B = blocks, S = steps of a block, E = exceptions."""

    words: torch.Tensor
    """int16 `[B, S, 3, 32]`."""
    first_BE: torch.Tensor
    """int32 `[B + 1]`: where the exceptions of a block begin in the list."""
    places_E: torch.Tensor
    """int32 `[E + 1]`: block * S + step of each exception, ascending; at the end one that no step has."""
    raw_E: torch.Tensor
    """int16 `[E, 4, 32]`: their weights as bfloat16, multiplied like the others."""
    scale: float
    """The power of two that sums are multiplied with."""
    num_outputs: int

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return sum(part.nbytes for part in (self.words, self.first_BE, self.places_E, self.raw_E))


def refusal(weight_OI: torch.Tensor) -> str | None:
    """Returns None if 12 bits hold this weight well, otherwise why it should stay in bfloat16."""
    if weight_OI.dtype != torch.bfloat16:
        return f"{weight_OI.dtype} is not torch.bfloat16"
    if weight_OI.shape[0] == 0 or weight_OI.shape[1] == 0 or weight_OI.shape[1] % STEP_INPUTS:
        return f"{list(weight_OI.shape)} is no whole number of steps of {STEP_INPUTS} inputs"
    counts = _exponent_counts(weight_OI)
    if counts[255]:
        return "a weight is not finite"
    if int(((_bits(weight_OI) & 0x7F80) == 0).logical_and((_bits(weight_OI) & 0x7F) != 0).sum()):
        return "a weight is subnormal"
    first = _best_window(counts)
    used = counts.nonzero().flatten().tolist()
    if max(used) - first + FIRST_READ > 254 or min((n for n in used if n), default=first) - first + FIRST_READ < 1:
        return "the exponents lie too far apart"
    exceptions = 0
    for part in weight_OI.split(32 * blocks_at_once(weight_OI.shape[1])):
        exceptions += int(_outside(to_steps(part.view(torch.int16)), first).sum())
    share = exceptions / (num_blocks(weight_OI.shape[0]) * (weight_OI.shape[1] // STEP_INPUTS))
    return f"{share:.0%} of its steps hold other exponents" if share > MAX_EXCEPTIONS else None


def pack(weight_OI: torch.Tensor) -> Packed12:
    """Returns a bfloat16 weight in 12 bits; `refusal` must be None."""
    num_outputs, num_inputs = weight_OI.shape
    first = _best_window(_exponent_counts(weight_OI))
    blocks, steps = num_blocks(num_outputs), num_inputs // STEP_INPUTS
    words = torch.empty((blocks, steps, 3, 32), dtype=torch.int16)
    places, raw = [], []
    at_once = blocks_at_once(num_inputs)
    for number, part in enumerate(weight_OI.split(32 * at_once)):
        bits = to_steps(part.view(torch.int16))
        outside_BS = _outside(bits, first)
        moved = bits + ((FIRST_READ - first) << 7)
        scaled = torch.where((bits & 0x7F80) == 0, bits, moved)  # zero stays zero
        start = number * at_once
        words[start : start + len(bits)] = _three_of_four(scaled)
        places.append(outside_BS.flatten().nonzero().flatten() + start * steps)
        raw.append(scaled[outside_BS])
    every = torch.cat(places)
    first_BE = torch.searchsorted(every, torch.arange(blocks + 1) * steps)
    end = torch.tensor([torch.iinfo(torch.int32).max])
    return Packed12(
        words=words,
        first_BE=first_BE.to(torch.int32),
        places_E=torch.cat([every, end]).to(torch.int32),
        raw_E=torch.cat(raw),
        scale=2.0 ** (first - FIRST_READ),
        num_outputs=num_outputs,
    )


def unpack(packed: Packed12) -> torch.Tensor:
    """Returns the weight that was packed, bit for bit, `[O, I]`."""
    w0, w1, w2 = packed.words.unbind(2)
    last = (w0 >> 4 & 0x0780) | (w1 >> 8 & 0x0078) | (w2 >> 11 & 0x0007) | (w2 << 1 & ~0x7FFF) | _FIXED
    kept = _signed(_KEPT)
    scaled = torch.stack([w0 & kept | _FIXED, w1 & kept | _FIXED, w2 & kept | _FIXED, last], dim=2)
    scaled.view(-1, 4, 32)[packed.places_E[:-1].long()] = packed.raw_E
    plain = from_steps(scaled, packed.num_outputs).view(torch.bfloat16)
    return plain * packed.scale


def _three_of_four(steps_BS4W: torch.Tensor) -> torch.Tensor:
    v0, v1, v2, v3 = steps_BS4W.unbind(2)
    kept, four = _signed(_KEPT), 0x7800
    parts = (v3 << 4) & four, (v3 << 8) & four, ((v3 >> 1) & 0x4000) | ((v3 & 0x0007) << 11)
    return torch.stack([v & kept | part for v, part in zip((v0, v1, v2), parts, strict=True)], dim=2)


def _outside(steps_BS4W: torch.Tensor, first: int) -> torch.Tensor:
    """Returns where a step holds an exponent that has no code, `[B, S]`."""
    exponent = (steps_BS4W >> 7) & 0xFF
    return ((exponent < first) | (exponent >= first + CODES)).flatten(2).any(2)


def _bits(weight_OI: torch.Tensor) -> torch.Tensor:
    return weight_OI.view(torch.int16)


def _exponent_counts(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns how many weights have each exponent, `[256]`."""
    counts = torch.zeros(256, dtype=torch.int64)
    for part in weight_OI.split(32 * blocks_at_once(weight_OI.shape[1])):
        counts += torch.bincount(((_bits(part) >> 7) & 0xFF).flatten(), minlength=256)
    return counts


def _best_window(counts: torch.Tensor) -> int:
    """Returns the first of the 16 neighbouring exponents that most weights have. It is at least 1: 0 means zero."""
    return int(counts[1:].unfold(0, CODES, 1).sum(1).argmax()) + 1


def _signed(word: int) -> int:
    return word - 0x10000 if word & 0x8000 else word
