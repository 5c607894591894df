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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from trimode.kernels.linear.blocks import OUTPUTS, STEP_INPUTS, blocks_at_once, from_steps, num_blocks, to_steps

CODES = 16
FIRST_READ = 112
"""The exponent that code 0 is read as."""
MAX_EXCEPTIONS = 1 / 8
"""Largest share of steps that are exceptions. With more the bytes saved do not pay for reading two lists."""
_SAMPLE = 1 << 18
"""Weights that the exponents are counted of, at least."""
_EXPONENT = 0x7F80
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


def pack(weight_OI: torch.Tensor) -> Packed12 | str:
    """Returns a bfloat16 weight in 12 bits, or why it should stay in bfloat16."""
    if weight_OI.dtype != torch.bfloat16:
        return f"{weight_OI.dtype} is not torch.bfloat16"
    num_outputs, num_inputs = weight_OI.shape
    if num_outputs == 0 or num_inputs == 0 or num_inputs % STEP_INPUTS:
        return f"{list(weight_OI.shape)} is no whole number of steps of {STEP_INPUTS} inputs"
    at_once = blocks_at_once(num_inputs)
    parts = weight_OI.view(torch.int16).split(OUTPUTS * at_once)
    first, reason = _choose_window(parts)
    if reason:
        return reason
    blocks, steps = num_blocks(num_outputs), num_inputs // STEP_INPUTS
    words = torch.empty((blocks, steps, 3, OUTPUTS), dtype=torch.int16)
    places, raw = [], []
    for number, part in enumerate(parts):
        bits = to_steps(part)
        outside_BS = (((bits & _EXPONENT) - (first << 7)) & ~(CODES - 1 << 7)).ne_(0).flatten(2).any(2)
        kept = bits[outside_BS]
        bits += (FIRST_READ - first) << 7
        start = number * at_once
        words[start : start + len(bits)] = _three_of_four(bits)
        places.append(outside_BS.flatten().nonzero().flatten() + start * steps)
        raw.append(torch.where((kept & _EXPONENT) == 0, kept, bits[outside_BS]))  # zero stays zero
    every = torch.cat(places)
    share = len(every) / (blocks * steps)
    if share > MAX_EXCEPTIONS:
        return f"{share:.0%} of its steps hold other exponents"
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


def _choose_window(parts: Sequence[torch.Tensor]) -> tuple[int, str]:
    """Returns the first of the 16 neighbouring exponents that most weights have, and what is wrong with the weights.

    The window is chosen from a sample: another one would cost more exceptions, and no bit. It begins at 1 or above,
    because exponent 0 means zero.
    """
    sample = torch.cat([part.flatten()[:: max(1, len(parts) * part.numel() // _SAMPLE)] for part in parts])
    counts = torch.bincount(((sample & _EXPONENT) >> 7).long(), minlength=256)
    first = int(counts[1:].unfold(0, CODES, 1).sum(1).argmax()) + 1
    sizes = [part & 0x7FFF for part in parts]
    most = max(int(size.max()) for size in sizes)
    least = min(int(((size - 1) & 0x7FFF).min()) for size in sizes) + 1  # without zeros
    if most >= _EXPONENT:
        return first, "a weight is not finite"
    if least < 1 << 7:
        return first, "a weight is subnormal"
    moved = FIRST_READ - first
    far = (most >> 7) + moved > 254 or (least >> 7) + moved < 1
    return first, "the exponents lie too far apart" if far and least <= most else ""


def _signed(word: int) -> int:
    return word - 0x10000 if word & 0x8000 else word
