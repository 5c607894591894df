"""Runs each kernel test on several machines: vectors of 16 and of 8 lanes, and none (then the references run)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm import jit

if runtime.is_interpreter():
    from trimode.tests.kernels.interpreter import support_bfloat16

    support_bfloat16()

WIDTHS = [lanes for lanes in (16, 8) if lanes <= jit.num_lanes()]
BF16_KINDS = [*([(16, True)] if jit.has_bf16_dot() else []), *((lanes, False) for lanes in WIDTHS)]
"""Lanes, and True for the instruction for pairs of bfloat16: the ways in which this CPU can multiply bfloat16."""


def pretend(monkeypatch: pytest.MonkeyPatch, lanes: int, *, bf16_dot: bool | None = None) -> None:
    """Lets the kernels see a CPU with vectors of so many lanes; 0: a machine where they do not run.

    `bf16_dot`: True if it has the instruction for pairs of bfloat16 (with 16 lanes only); None: as this CPU.
    """
    has_bf16_dot = jit.has_bf16_dot() if bf16_dot is None else bf16_dot
    monkeypatch.setattr(jit, "num_lanes", lambda: lanes)
    monkeypatch.setattr(jit, "has_bf16_dot", lambda: has_bf16_dot and lanes == 16)
    if not lanes:
        monkeypatch.setattr(jit, "missing", lambda: "no llvmlite")


@pytest.fixture(params=[*WIDTHS, 0])
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every test of an operator for each width of vectors that this CPU has, and for the reference."""
    pretend(monkeypatch, request.param)
    return int(request.param)


@pytest.fixture(params=WIDTHS)
def vector_lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Where the CPU kernels run only."""
    pretend(monkeypatch, request.param)
    return int(request.param)


@pytest.fixture(params=["interpreted", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of tensors that run through Triton: the CPU with its interpreter, and a GPU where there is one."""
    if request.param == "cuda":
        yield torch.device("cuda")
    elif runtime.is_interpreter():
        with runtime.interpreted():
            yield torch.device("cpu")
    else:
        pytest.skip("Triton is not there, or compiles for the GPU in this process")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def uninitialized_memory_is_nan() -> Iterator[None]:
    """What a kernel allocates holds NaN until it is written: torch does so in its deterministic mode."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
