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
from trimode.kernels.linear.blocks import OUTPUTS, STEP_INPUTS, from_steps, num_blocks, to_steps
from trimode.kernels.linear.pack_kernel import SIZES, TILE_INPUTS, kernel

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
    """Returns a bfloat16 weight on the CPU in 12 bits, or why it should stay in bfloat16. Needs llvmlite."""
    if weight_OI.dtype != torch.bfloat16:
        return f"{weight_OI.dtype} is not torch.bfloat16"
    num_outputs, num_inputs = weight_OI.shape
    if num_outputs == 0 or num_inputs == 0 or num_inputs % TILE_INPUTS:
        return f"{list(weight_OI.shape)} is no whole number of tiles of {TILE_INPUTS} inputs"
    bits_OI = weight_OI.contiguous().view(torch.int16)
    first = _first_exponent(bits_OI)
    moved = FIRST_READ - first
    blocks, steps = num_blocks(num_outputs), num_inputs // STEP_INPUTS
    words = torch.empty((blocks, steps, 3, OUTPUTS), dtype=torch.int16)
    outside_BS = torch.empty((blocks, steps), dtype=torch.uint8)
    sizes = torch.empty((blocks, SIZES, OUTPUTS), dtype=torch.int16)
    tensors = (part.data_ptr() for part in (words, outside_BS, sizes))
    shape = 2 * num_inputs, num_outputs, num_inputs // TILE_INPUTS
    kernel()(blocks, bits_OI.data_ptr(), *shape, first << 7, moved << 7, *tensors)
    reason = _misfit(int(sizes[:, 0].max()), int(sizes[:, 1].min()) + 1, moved)
    places = outside_BS.flatten().nonzero().flatten()
    share = len(places) / (blocks * steps)
    if not reason and share > MAX_EXCEPTIONS:
        reason = f"{share:.0%} of its steps hold other exponents"
    if reason:
        return reason
    end = torch.tensor([torch.iinfo(torch.int32).max])
    return Packed12(
        words=words,
        first_BE=torch.searchsorted(places, torch.arange(blocks + 1) * steps).to(torch.int32),
        places_E=torch.cat([places, end]).to(torch.int32),
        raw_E=_raw_steps(bits_OI, places // steps, places % steps, moved),
        scale=2.0**-moved,
        num_outputs=num_outputs,
    )


def _raw_steps(bits_OI: torch.Tensor, blocks_E: torch.Tensor, steps_E: torch.Tensor, moved: int) -> torch.Tensor:
    """Returns the steps at these places as they are, multiplied like the others, `[E, 4, 32]`."""
    if len(blocks_E) == 0:
        return bits_OI.new_empty((0, 4, OUTPUTS))
    rows = (blocks_E[:, None] * OUTPUTS + torch.arange(OUTPUTS)).clamp_(max=len(bits_OI) - 1)
    columns = steps_E[:, None] * STEP_INPUTS + torch.arange(STEP_INPUTS)
    plain = to_steps(bits_OI[rows[:, :, None], columns[:, None]].flatten(0, 1)).flatten(0, 1)
    return torch.where((plain & _EXPONENT) == 0, plain, plain + (moved << 7))  # zero stays zero


def unpack(packed: Packed12) -> torch.Tensor:
    """Returns the weight that was packed, bit for bit, `[O, I]`."""
    w0, w1, w2 = packed.words.unbind(2)
    last = (w0 >> 4 & 0x0780) | (w1 >> 8 & 0x0078) | (w2 >> 11 & 0x0007) | (w2 << 1 & ~0x7FFF) | _FIXED
    kept = _signed(_KEPT)
    scaled = torch.stack([w0 & kept | _FIXED, w1 & kept | _FIXED, w2 & kept | _FIXED, last], dim=2)
    scaled.view(-1, 4, 32)[packed.places_E[:-1].long()] = packed.raw_E
    plain = from_steps(scaled, packed.num_outputs).view(torch.bfloat16)
    return plain * packed.scale


def _first_exponent(bits_OI: torch.Tensor) -> int:
    """Returns the first of the 16 neighbouring exponents that most weights have.

    It is chosen from a sample: another one would cost more exceptions, and no bit. It is 1 or above, because exponent 0
    means zero.
    """
    sample = bits_OI.flatten()[:: max(1, bits_OI.numel() // _SAMPLE)]
    counts = torch.bincount(((sample & _EXPONENT) >> 7).long(), minlength=256)
    return int(counts[1:].unfold(0, CODES, 1).sum(1).argmax()) + 1


def _misfit(most: int, least: int, moved: int) -> str:
    """Returns what is wrong with weights of these largest and least sizes, as bits without sign; zeros do not count."""
    if most >= _EXPONENT:
        return "a weight is not finite"
    if least < 1 << 7:
        return "a weight is subnormal"
    far = (most >> 7) + moved > 254 or (least >> 7) + moved < 1
    return "the exponents lie too far apart" if far and least <= most else ""


def _signed(word: int) -> int:
    return word - 0x10000 if word & 0x8000 else word
