"""Compiles Triton kernels for a chip that is not there: what a launch with the same arguments would compile.

Triton needs a driver only to launch. A driver that names a chip is enough for compiling.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from trimode.kernels.cuda import runtime

ARCHITECTURES = (80, 90, 100, 120, 121)
"""A100, H100 and H200, B200, RTX Blackwell, DGX Spark."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel compiled for one chip."""

    name: str
    capability: int
    num_warps: int
    num_stages: int
    shared_bytes: int
    """Shared memory that a program allocates when it starts."""
    cubin: bytes
    ptx: str


class CompileError(Exception):
    """A kernel does not compile. The message names it and the chip."""


def _driver(capability: int) -> Any:  # noqa: ANN401 -- a Triton driver
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class NamedChip(DriverBase):  # type: ignore[misc]
        """Answers what Triton's compiler asks a driver; it cannot launch."""

        def __init__(self) -> None:
            """Loads nothing: the base class would ask the CUDA library."""

        @classmethod
        def is_active(cls) -> bool:
            return False

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> Any:  # noqa: ANN401
            return GPUTarget("cuda", capability, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("meta")

        def get_current_device(self) -> int:
            return capability  # compiled kernels are kept per device

        def get_current_stream(self, device: object) -> int:  # noqa: ARG002
            return 0

        def get_benchmarker(self) -> Any:  # noqa: ANN401
            raise NotImplementedError

    return NamedChip()


@contextlib.contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Inside the block operators take tensors on the device `meta`, and every launch only compiles its kernel.

    Args:
        capability: the chip, 10 * major + minor.

    Yields:
        The kernels compiled so far, in the order of their launches. The same kernel is listed again each time.

    Raises:
        RuntimeError: Triton is missing or was imported as an interpreter.
        CompileError: from a launch inside the block whose kernel does not compile.
    """
    if runtime.triton is None or runtime.is_interpreter():
        raise RuntimeError("compiling needs triton, imported without TRITON_INTERPRET=1")
    import triton
    from triton.errors import TritonError

    compiled: list[Compiled] = []

    def warm_up(kernel: Any, grid: tuple[int, ...], *args: object, **options: object) -> None:  # noqa: ANN401
        name = kernel.fn.__name__
        printed = io.StringIO()  # a failing assembler prints the whole program
        try:
            with contextlib.redirect_stdout(printed):
                result = kernel.warmup(*args, grid=grid, **options)
        except (TritonError, RuntimeError) as error:
            cause = error.__cause__ or error
            raise CompileError(f"{name} for sm_{capability}: {type(cause).__name__}: {str(cause)[:2000]}") from error
        compiled.append(
            Compiled(
                name=name,
                capability=capability,
                num_warps=result.metadata.num_warps,
                num_stages=result.metadata.num_stages,
                shared_bytes=result.metadata.shared,
                cubin=result.asm["cubin"],
                ptx=result.asm["ptx"],
            )
        )

    # Not `driver.active`, which would load a driver.
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(_driver(capability))
    try:
        with runtime.elsewhere(runtime.Elsewhere("meta", capability, warm_up)):
            yield compiled
    finally:
        triton.runtime.driver._active = before
