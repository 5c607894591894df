"""Many small arrays in one buffer, so that a step brings all its numbers to the device in a single copy."""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

ALIGNMENT = 16
"""Bytes. Every part starts at a multiple of this, so that a kernel may read it in whole vectors."""


DTYPES = {"i": torch.int32, "q": torch.int64, "f": torch.float32, "d": torch.float64}
"""The dtype of an array's type code."""
Array: TypeAlias = "array[Any]"
"""An array of one of these type codes."""


class Part(NamedTuple):
    """One array of a buffer."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class BufferLayout:
    """Where each part of a buffer stands. The same layout serves the buffer on the host and its copy on the device."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Places the parts: those of larger elements first, otherwise in the given order."""
        self._parts: dict[str, tuple[Part, int, int]] = {}
        """Each part with its first byte and its number of elements."""
        offset = 0
        for part in sorted(parts, key=lambda part: -part.dtype.itemsize):
            numel = math.prod(part.shape)
            self._parts[part.name] = (part, offset, numel)
            offset += -(-numel * part.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.num_bytes = max(offset, ALIGNMENT)
        """Size of the buffer. Never 0, so that every view has an address."""

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def offset(self, name: str) -> int:
        """Returns the first byte of a part."""
        return self._parts[name][1]

    def write(self, memory: memoryview, name: str, values: Array, *, fill: int | None = None) -> None:
        """Writes all elements of a part.

        Args:
            memory: the host buffer, from `memory_of`.
            name: of the part.
            values: as many as the part has, of its element size.
            fill: stands for the elements that are missing at the end; None = none may be missing.

        Raises:
            ValueError: another number of elements, or elements of another size.
        """
        part, offset, numel = self._parts[name]
        if fill is not None and len(values) < numel:
            values = values + array(values.typecode, [fill]) * (numel - len(values))
        if len(values) != numel or values.itemsize != part.dtype.itemsize:
            raise ValueError(
                f"packing: {name}: got {len(values)} elements of {values.itemsize} bytes, "
                f"expected {numel} of {part.dtype.itemsize}"
            )
        if numel:
            memory[offset : offset + numel * values.itemsize] = memoryview(values).cast("B")

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns every part as a tensor that shares the memory of `buffer`, uint8 `[num_bytes]` or longer."""
        typed: dict[torch.dtype, torch.Tensor] = {}
        views = {}
        for name, ((_, dtype, shape), offset, numel) in self._parts.items():
            whole = typed.get(dtype)
            if whole is None:
                whole = typed[dtype] = buffer.view(dtype)
            view = whole.narrow(0, offset // dtype.itemsize, numel)
            views[name] = view if len(shape) == 1 else view.view(shape)
        return views


def host_buffer(num_bytes: int, device: torch.device) -> torch.Tensor:
    """Returns memory on the host, uint8 `[num_bytes]`, from which a copy to the device need not wait (pinned on CUDA).

    It may be dropped as soon as the copy is launched: torch keeps pinned memory until the copy is done.
    """
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def memory_of(buffer: torch.Tensor) -> memoryview:
    """Returns the bytes of a contiguous tensor on the host. They are valid as long as the tensor lives."""
    return memoryview((ctypes.c_char * buffer.nbytes).from_address(buffer.data_ptr())).cast("B")


def parts_of(arrays: Mapping[str, Array]) -> list[Part]:
    """Returns one part per array."""
    return [Part(name, DTYPES[data.typecode], (len(data),)) for name, data in arrays.items()]


def upload(arrays: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the arrays as tensors on the device, brought there in one copy that the host does not wait for."""
    layout = BufferLayout(parts_of(arrays))
    host = host_buffer(layout.num_bytes, device)
    memory = memory_of(host)
    for name, data in arrays.items():
        layout.write(memory, name, data)
    return layout.views(host.to(device, non_blocking=True))


class Download:
    """A tensor on its way to the host."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Starts the copy, behind all that the device has been given to do so far. The host does not wait."""
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> torch.Tensor:
        """Returns the tensor once it is on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.cpu()
