"""Declares and launches Triton kernels.

A kernel is launched on a GPU. On a machine without one it can be interpreted on CPU tensors (`interpreted`), or only
compiled for a named chip (`trimode.kernels.cuda.offline`). The kernels' modules import where Triton is missing; then
no kernel is offered.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # then no GPU kernel is offered, see `refusal`
    triton = tl = None

__all__ = [
    "DTYPES", "Elsewhere", "capability", "describe", "elsewhere", "interpreted", "is_interpreter", "jit", "launch",
    "num_sms", "refusal", "tl", "triton",
]  # fmt: skip

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Dtypes of activations that the kernels load and store. They sum in float32."""
OLDEST = 80
"""The oldest chips that the kernels are compiled for: bfloat16 products and asynchronous copies begin there."""
DEFAULT_CAPABILITY = 90
"""The chip whose choices are made where nothing else is said and no GPU is there."""
DEFAULT_SMS = 132
"""Its multiprocessors."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where launches go that do not go to a GPU."""

    device: str
    """The type of the tensors: `cpu` (interpreted) or `meta` (only compiled)."""
    capability: int
    """The chip that is pretended: 10 * major + minor."""
    launch: Callable[..., None]
    """Takes what `launch` takes."""


_elsewhere: list[Elsewhere] = []
"""The innermost `interpreted` or `offline.compiling` block, last; empty on a GPU."""


def jit(kernel: Callable[..., object] | None = None, **options: Any) -> Any:  # noqa: ANN401 -- a Triton function
    """Declares a Triton kernel or a function that kernels call. Without Triton the function stays as it is.

    Args:
        kernel: the function; its module needs `from __future__ import annotations`.
        options: those of `triton.jit`. Every integer that changes from step to step belongs into `do_not_specialize`,
            because each new value of it could compile the kernel again, which a graph capture does not survive.
    """
    if kernel is None:
        return functools.partial(jit, **options)
    return kernel if triton is None else triton.jit(kernel, **options)


def is_interpreter() -> bool:
    """Returns True if Triton was imported as an interpreter, with TRITON_INTERPRET=1 in the environment."""
    return triton is not None and os.environ.get("TRITON_INTERPRET") == "1"


def refusal(*tensors: torch.Tensor) -> str | None:
    """Returns None if Triton kernels run on the device of these tensors, otherwise the reason."""
    device = tensors[0].device
    for tensor in tensors:
        if tensor.device != device:
            return f"{device} and {tensor.device} together"
    if _elsewhere:
        expected = _elsewhere[-1].device
        return None if device.type == expected else f"no kernel for {device.type} where kernels run on {expected}"
    if device.type != "cuda":
        return f"no GPU kernel for {device.type}"
    if triton is None:
        return "no triton"
    found = capability(device)
    return None if found >= OLDEST else f"sm_{found} is older than sm_{OLDEST}"


def capability(device: torch.device) -> int:
    """Returns the chip's compute capability as 10 * major + minor, for example 90."""
    if _elsewhere:
        return _elsewhere[-1].capability
    return _capability(device.index) if device.type == "cuda" else DEFAULT_CAPABILITY


def num_sms(device: torch.device) -> int:
    """Returns the number of multiprocessors of the device, which bounds how many programs run at once."""
    return _num_sms(device.index) if device.type == "cuda" and not _elsewhere else DEFAULT_SMS


def describe(tensor: torch.Tensor, refused: str | None) -> str | None:
    """Returns what runs on the device of `tensor` as far as GPU kernels decide it, None if they do not.

    Args:
        tensor: one of the operator's.
        refused: why the Triton kernel does not take the tensors, None if it does.
    """
    if refused is None:
        return f"cuda, sm_{capability(tensor.device)}"
    return f"reference: {refused}" if tensor.is_cuda else None


def launch(kernel: Any, grid: tuple[int, ...], *args: object, **options: object) -> None:  # noqa: ANN401
    """Launches `kernel` over a grid; a grid without programs launches nothing.

    Args:
        kernel: declared with `jit`.
        grid: one to three numbers of programs, known on the host.
        args: the kernel's tensors and numbers in order.
        options: its compile-time constants, and num_warps, num_stages.
    """
    if 0 in grid:
        return
    if _elsewhere:
        _elsewhere[-1].launch(kernel, grid, *args, **options)
    else:
        kernel[grid](*args, **options)


@contextlib.contextmanager
def elsewhere(place: Elsewhere) -> Iterator[None]:
    """Inside the block every launch of this process goes to `place`."""
    _elsewhere.append(place)
    try:
        yield
    finally:
        _elsewhere.pop()


@contextlib.contextmanager
def interpreted(capability: int = DEFAULT_CAPABILITY) -> Iterator[None]:
    """Inside the block operators on CPU tensors run their Triton kernels in the interpreter, for tests.

    Args:
        capability: the chip whose choices are made.

    Raises:
        RuntimeError: Triton is missing, or was imported without TRITON_INTERPRET=1.
    """
    if not is_interpreter():
        raise RuntimeError("Triton's interpreter needs TRITON_INTERPRET=1 before the first import of triton")

    def run(kernel: Any, grid: tuple[int, ...], *args: object, **options: object) -> None:  # noqa: ANN401
        kernel[grid](*args, **options)

    with elsewhere(Elsewhere("cpu", capability, run)):
        yield


@functools.cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@functools.cache
def _num_sms(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
