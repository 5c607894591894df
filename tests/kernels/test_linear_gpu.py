"""The product with a weight by the GPU kernels: for every scheme, class of rows and kind of chip."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trimode.kernels import linear
from trimode.kernels.cuda import runtime
from trimode.kernels.linear import Layout, Prepared, reference
from trimode.kernels.linear import gpu as on_gpu
from trimode.kernels.linear.gpu import PACK
from trimode.kernels.linear.quantized import (
    MAX_E4M3,
    QuantizedWeight,
    Scheme,
    dequantize,
    pack,
    quantize,
    quantize_rows,
)
from trimode.kernels.linear.tiles import SPLIT_MULTIPLE, Kind, tile
from trimode.tests.kernels.numerics import assert_no_worse, normal

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
PLAIN = None
ON_GPU = (Scheme.fp8, Scheme.w4a16)
"""Schemes with a GPU kernel."""
WAYS = [
    *((PLAIN, dtype) for dtype in DTYPES),
    *((Scheme.fp8, dtype) for dtype in (torch.bfloat16, torch.float32)),
    *((Scheme.w4a16, dtype) for dtype in (torch.bfloat16, torch.float16)),
]
"""Schemes and dtypes that the kernels multiply with."""
CHIPS = [80, 90, 100]
"""One of each kind of matrix instruction; sm_80 has no e4m3."""
ONE_INSTRUCTION = 16
"""Inputs that a matrix instruction sums for 2-byte numbers."""


@pytest.fixture(params=CHIPS)
def chip(request: pytest.FixtureRequest) -> Iterator[int]:
    """The chip whose choices are made, interpreted."""
    if not runtime.is_interpreter():
        pytest.skip("Triton is not there, or compiles for the GPU in this process")
    with runtime.interpreted(request.param):
        yield int(request.param)


def prepared_of(
    weight: torch.Tensor, scheme: Scheme | None, *, batch_invariant: bool = True
) -> tuple[Prepared, QuantizedWeight | None]:
    """The weight in a scheme, as `apply` takes it, and its codes."""
    if scheme is None:
        return linear.prepare(weight, batch_invariant=batch_invariant), None
    quantized = quantize(weight, scheme, weight.dtype)
    return linear.prepare_quantized(quantized, batch_invariant=batch_invariant), quantized


def exactly(x: torch.Tensor, weight: torch.Tensor, quantized: QuantizedWeight | None) -> torch.Tensor:
    """The product in float64 of what is multiplied."""
    if quantized is None:
        return x.double() @ weight.double().T
    rows = x.double()
    if quantized.scheme is Scheme.fp8:
        codes, scales = quantize_rows(x)
        rows = codes.double() * scales.double()[:, None]
    return rows @ dequantize(quantized).double().T


def once_rounded(
    x: torch.Tensor, weight: torch.Tensor, quantized: QuantizedWeight | None, residual: torch.Tensor | None
) -> torch.Tensor:
    """What plain torch computes in float32 and rounds once."""
    if quantized is not None:
        return reference.quantized_product(x, quantized, residual)
    y = x.float() @ weight.float().T
    return (y if residual is None else y + residual.float()).to(x.dtype)


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize(("scheme", "dtype"), WAYS)
@pytest.mark.parametrize(("shape", "counts"), [((72, 1056), (1, 17, 65)), ((200, 96), (3, 33, 64, 200))])
def test_product_and_sum_with_the_residual(
    shape: tuple[int, int],
    counts: tuple[int, ...],
    scheme: Scheme | None,
    dtype: torch.dtype,
    batch_invariant: bool,
    gpu: torch.device,
) -> None:
    weight = normal(*shape, dtype=dtype).to(gpu)
    prepared, quantized = prepared_of(weight, scheme, batch_invariant=batch_invariant)
    assert prepared.layout is Layout.CUDA
    results = []
    for rows in counts:
        x, residual = (normal(rows, width, seed=rows).to(dtype).to(gpu) for width in (shape[1], shape[0]))
        exact, before = exactly(x, weight, quantized), residual.clone()
        for added in (None, residual) if rows < 20 else (residual,):
            got = linear.apply(x, prepared, added)
            assert got.is_contiguous()
            whole = exact if added is None else exact + added.double()
            results.append((got, once_rounded(x, weight, quantized, added), whole))
        assert torch.equal(residual, before)
    if scheme is Scheme.fp8 and dtype == torch.float32 and gpu.type == "cuda" and runtime.capability(gpu) == 90:
        for got, _, whole in results:  # its units keep 13 bits of the sum of 128 products
            assert (got - whole).norm() <= 2.0**-12 * whole.norm()
        return
    assert_no_worse(*(torch.cat(column) for column in zip(*results, strict=True)))


@pytest.mark.parametrize("scheme", [PLAIN, *ON_GPU])
def test_every_odd_number_of_rows(scheme: Scheme | None, gpu: torch.device) -> None:
    weight = normal(16, 32, dtype=torch.bfloat16).to(gpu)
    prepared, quantized = prepared_of(weight, scheme)
    x = normal(65, 32, seed=1, dtype=torch.bfloat16).to(gpu)
    plain = once_rounded(x, weight, quantized, None)
    for rows in range(1, 66, 16 if scheme is Scheme.fp8 else 2):  # in the interpreter every row costs a program
        assert torch.allclose(linear.apply(x[:rows], prepared), plain[:rows], rtol=2**-7, atol=1e-6)


@pytest.fixture
def by_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the interpreter sum as matrix instructions do, 16 inputs at a time, each time rounded to float32.

    numpy's product may sum in an order that depends on the shape of a tile. Here 16 products of few bits are exact.
    """
    from trimode.tests.kernels.interpreter import widened
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def values(handle: Any) -> np.ndarray:
        if handle.dtype.scalar.is_fp8():
            codes = torch.from_numpy(handle.data.view(np.uint8).copy())
            return np.asarray(codes.view(torch.float8_e4m3fn).double())
        return np.asarray(widened(handle).data, dtype=np.float64)

    def create_dot(self: Any, a: Any, b: Any, total: Any, *options: Any) -> Any:  # noqa: ARG001
        left, right, sums = values(a), values(b), total.data
        for start in range(0, left.shape[1], ONE_INSTRUCTION):
            part = slice(start, start + ONE_INSTRUCTION)
            sums = (sums + left[:, part] @ right[part]).astype(np.float32)
        return TensorHandle(sums, total.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.usefixtures("by_instruction")
@pytest.mark.parametrize(("scheme", "dtype"), WAYS)
def test_a_row_alone_equals_the_same_row_among_others(scheme: Scheme | None, dtype: torch.dtype, chip: int) -> None:
    # Few bits, so that 16 products are summed exactly. The halves cancel, so only what was rounded on the way is left,
    # and the rounding of the result hides none of it.
    half = normal(24, 640).bfloat16().to(dtype)
    prepared, _ = prepared_of(torch.cat([half, half], dim=1), scheme)
    assert prepared.on_gpu is not None
    assert prepared.on_gpu.split < 1280, "several splits"
    x = normal(70, 640, seed=1).bfloat16().to(dtype)
    x, residual = torch.cat([x, -x], dim=1), normal(70, 24, seed=1).to(dtype) * 2.0**-20
    together = linear.apply(x, prepared, residual)
    for rows in (slice(0, 1), slice(67, 70), slice(5, 37)):
        assert torch.equal(linear.apply(x[rows], prepared, residual[rows]), together[rows]), (chip, rows)


@pytest.mark.cuda
@pytest.mark.parametrize(("scheme", "dtype"), WAYS)
def test_a_row_alone_equals_the_same_row_among_others_on_a_gpu(scheme: Scheme | None, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    for shape in ((4096, 4096), (6144, 4096), (4096, 14336)):
        prepared, _ = prepared_of(normal(*shape, dtype=dtype).to(device), scheme)
        x, residual = (normal(600, width, seed=1).to(dtype).to(device) for width in (shape[1], shape[0]))
        together = linear.apply(x, prepared, residual)
        for count in (1, 3, 16, 17, 64, 65, 300, 599):
            assert torch.equal(linear.apply(x[:count], prepared, residual[:count]), together[:count]), (shape, count)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("zeros", "inputs"), [(True, 256), (False, 256), (True, 192), (True, 96)])
def test_a_product_with_unit_vectors_is_the_4_bit_weight_itself(
    zeros: bool, inputs: int, dtype: torch.dtype, gpu: torch.device
) -> None:
    weight = quantize(normal(70, inputs) * 3, Scheme.w4a16, dtype).to(gpu)
    weight = weight if zeros else dataclasses.replace(weight, zeros=None)
    prepared = linear.prepare_quantized(weight, batch_invariant=True)
    padded = PACK * inputs // 2 + 4 * PACK * weight.scales.shape[1]
    assert prepared.nbytes == padded
    got = linear.apply(torch.eye(inputs, dtype=dtype, device=gpu), prepared)
    assert torch.equal(got, dequantize(weight).to(dtype).T)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_product_with_unit_vectors_is_the_fp8_weight_itself(chip: int) -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(2).view(torch.float8_e4m3fn)  # every code, NaN too
    weight = QuantizedWeight(
        scheme=Scheme.fp8, codes=codes.view(16, 32), scales=normal(16, seed=1).abs(), zeros=None, num_outputs=16,
        num_inputs=32, dtype=torch.float32,
    )  # fmt: skip
    prepared = linear.prepare_quantized(weight)
    assert prepared.nbytes == weight.nbytes
    got = linear.apply(MAX_E4M3 * torch.eye(32), prepared)  # the scale of such a row is 1
    expected = ((weight.codes.float() * MAX_E4M3) * weight.scales[:, None]).T
    spoiled = weight.codes.float().isnan().any(1)
    assert torch.equal(got[:, ~spoiled], expected[:, ~spoiled]), chip
    if chip == 80:  # the interpreter reads NaN as 480 where the chip has e4m3
        assert got[:, spoiled].isnan().all()


def test_rows_are_quantised_as_the_reference_does(chip: int) -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    halfway = (codes[1:] + codes[:-1]) / 2
    rows = [
        torch.cat([codes, -halfway, codes[-1:]]),
        *(normal(254, seed=seed) * 10.0**power for seed, power in enumerate((-30, -3, 0, 4, 30))),
        torch.zeros(254),
        torch.full((254,), 1e-44),
    ]
    x = torch.stack(rows)
    got, scales = on_gpu.quantize_rows(x)
    expected, expected_scales = quantize_rows(x)
    assert got.dtype == (torch.float16 if chip == 80 else torch.float8_e4m3fn)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(got.float(), expected.float())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("scheme", [PLAIN, *ON_GPU])
def test_rows_that_are_not_finite_spoil_their_own_results_only(scheme: Scheme | None, chip: int) -> None:
    prepared, _ = prepared_of(normal(32, 64, dtype=torch.bfloat16), scheme)
    x = normal(5, 64, dtype=torch.bfloat16)
    x[1, 0], x[2, 0] = math.nan, math.inf
    got = linear.apply(x, prepared)
    assert got[1].isnan().all(), chip
    assert not got[2].isfinite().any()
    assert got[[0, 3, 4]].isfinite().all()
    assert linear.apply(x[:0], prepared).shape == (0, 32)


@pytest.mark.parametrize("scheme", [PLAIN, *ON_GPU])
def test_rows_and_residuals_of_wider_tensors(scheme: Scheme | None, gpu: torch.device) -> None:
    prepared, _ = prepared_of(normal(32, 64, dtype=torch.bfloat16).to(gpu), scheme)
    wide = normal(5, 128, dtype=torch.bfloat16, seed=1).to(gpu)
    for x, residual in ((wide[:, 64:], wide[:, :32]), (wide[:, ::2], wide[:, ::4])):
        got = linear.apply(x, prepared, residual)
        assert torch.equal(got, linear.apply(x.contiguous(), prepared, residual.contiguous()))


def test_scales_of_more_than_20_bits_are_rounded() -> None:
    if not runtime.is_interpreter():
        pytest.skip("needs the interpreter")
    scales = normal(4, 2, seed=1).abs()
    weight = QuantizedWeight(
        scheme=Scheme.w4a16, codes=pack(torch.arange(1024).view(4, 256) % 16), scales=scales, zeros=None,
        num_outputs=4, num_inputs=256, dtype=torch.float16, group_size=128,
    )  # fmt: skip
    with runtime.interpreted():
        factors = linear.prepare_quantized(weight).on_gpu.factors  # type: ignore[union-attr]
    assert factors is not None
    assert (factors[:, :4] & 15 == 8).all()
    assert torch.allclose((factors[:, :4] & -16).view(torch.float32).T, scales, rtol=2.0**-20, atol=0)


@pytest.mark.parametrize("scheme", [PLAIN, Scheme.fp8])
def test_many_rows_are_left_to_cublas(scheme: Scheme | None, monkeypatch: pytest.MonkeyPatch, chip: int) -> None:
    prepared, quantized = prepared_of(normal(32, 64, dtype=torch.bfloat16), scheme, batch_invariant=False)
    ours = scheme is Scheme.fp8 and chip == 80  # which has no e4m3
    monkeypatch.setattr(on_gpu, "STREAM_ROWS", 4)
    launched: list[Any] = []
    launch = runtime.launch
    monkeypatch.setattr(runtime, "launch", lambda kernel, *a, **k: (launched.append(kernel), launch(kernel, *a, **k)))
    x, residual = (normal(5, width, dtype=torch.bfloat16, seed=1) for width in (64, 32))
    for rows in (4, 5):
        for added in (None, residual[:rows]):
            launched.clear()
            got = linear.apply(x[:rows], prepared, added)
            assert (on_gpu._product in launched) == (rows == 4 or ours)
            plain = once_rounded(x[:rows], normal(32, 64, dtype=torch.bfloat16), quantized, added)
            assert torch.allclose(got, plain, rtol=2**-7, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_of_4_bits_are_unpacked_once_for_very_many_rows(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    weight = normal(200, 256, dtype=dtype).to(gpu)
    prepared, quantized = prepared_of(weight, Scheme.w4a16, batch_invariant=False)
    assert quantized is not None
    assert prepared.on_gpu is not None
    plain = on_gpu.unpack_int4(prepared.on_gpu, dtype)
    assert torch.equal(plain, dequantize(quantized).to(dtype))
    monkeypatch.setattr(on_gpu, "UNPACK_ROWS", 4)
    x, residual = (normal(5, width, dtype=dtype, seed=1).to(gpu) for width in (256, 200))
    assert torch.equal(linear.apply(x, prepared), torch.nn.functional.linear(x, plain))
    assert torch.equal(linear.apply(x, prepared, residual), torch.addmm(residual, x, plain.T))
    invariant, _ = prepared_of(weight, Scheme.w4a16, batch_invariant=True)
    assert torch.equal(linear.apply(x, invariant)[:1], linear.apply(x[:1], invariant))


def test_what_runs_is_described_and_what_cannot_is_left_to_the_reference(chip: int) -> None:
    weight = normal(32, 64, dtype=torch.bfloat16)
    assert linear.describe(weight) == f"cuda, sm_{chip}, own kernels for up to 64 rows, cuBLAS for more"
    assert linear.describe(weight.float()) == f"cuda, sm_{chip}, cuBLAS"
    assert linear.describe(weight, batch_invariant=True) == f"cuda, sm_{chip}, own kernels for any number of rows"
    assert linear.prepare(weight).weight is weight
    assert linear.prepare(weight).nbytes == weight.nbytes
    assert on_gpu.supports(weight[:, :24].contiguous()) == "24 inputs are no multiple of 16"
    assert on_gpu.supports(weight.T) == "the weight is not contiguous"
    assert on_gpu.supports(weight.double()) == "no GPU kernel for torch.float64"
    assert linear.prepare(weight.double()).layout is not Layout.CUDA
    int4 = quantize(normal(32, 64), Scheme.w4a16, torch.float32)
    assert on_gpu.supports_quantized(int4) == "no GPU kernel for 4-bit weights and torch.float32"
    assert linear.prepare_quantized(int4).layout is Layout.QUANTIZED
    fp8 = quantize(normal(2, 65536), Scheme.fp8, torch.float32)
    assert on_gpu.supports_quantized(fp8) == "65536 inputs are above 32768"


def test_tensors_on_another_device_are_refused(gpu: torch.device) -> None:
    prepared = linear.prepare(torch.zeros(32, 64, device=gpu))
    with pytest.raises(ValueError, match=f"linear.apply: got x on meta, expected {gpu}"):
        linear.apply(torch.zeros(2, 64, device="meta"), prepared)
    with pytest.raises(ValueError, match=f"linear.apply: got residual on meta, expected {gpu}"):
        linear.apply(torch.zeros(2, 64, device=gpu), prepared, torch.zeros(2, 32, device="meta"))


@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 103, 120, 121])
@pytest.mark.parametrize("kind", list(Kind))
def test_tiles_fit_the_splits_and_each_other(kind: Kind, capability: int) -> None:
    group = 128 if kind is Kind.int4 else 0
    for batch_invariant in (False, True):
        tiles = [tile(kind, rows, capability, batch_invariant, group) for rows in (1, 16, 17, 32, 33, 64, 65, 4096)]
        assert len({part.outputs for part in tiles[:6]}) == 1, "splits are made for the outputs of a tile"
        for part in tiles:
            assert SPLIT_MULTIPLE % part.inputs == 0
            assert kind is not Kind.int4 or PACK % part.outputs == 0
        if batch_invariant and 90 <= capability < 120 and kind is not Kind.float32:
            assert {part.rows for part in tiles} == {64}, "one width of the matrix instruction"
        if batch_invariant and 100 <= capability < 120 and kind is not Kind.float32:
            assert {part.outputs % 128 for part in tiles} == {0}, "one height of the matrix instruction"


INSTRUCTIONS = """
import re, torch
from trimode.kernels.cuda import offline
from trimode.kernels.linear.quantized import Scheme
from trimode.kernels.resources.cases import MODELS
from trimode.kernels.resources.linear import multiply
for capability in (90, 100):
    for scheme in (None, Scheme.fp8, Scheme.w4a16):
        with offline.compiling(capability) as kernels:
            for rows in (1, 33, 200):
                multiply("o", MODELS["8B"], torch.bfloat16, scheme, rows, invariant=True)
        found = set()
        for ptx in (kernel.ptx for kernel in kernels):
            found.update(re.findall(r"(?:wgmma[.]mma_async|mma)[.]sync[.\\w]+", ptx))
            for name, shape in re.findall(r"(tcgen05[.]mma[.\\w:]+) [^,]+, [^,]+, [^,]+, ([^,]+),", ptx):
                found.add(name + " " + " ".join(re.findall(rf"mov[.]b32\\s+{re.escape(shape)}, (-?\\w+);", ptx)))
        print(capability, scheme, *sorted(found), sep="|")
"""
"""Prints the matrix instructions of all products of a chip and a scheme; that of sm_100 has its shape in a number."""


@pytest.mark.process
@pytest.mark.slow
def test_one_matrix_instruction_for_any_number_of_rows(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", INSTRUCTIONS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) == 2 * 3
    assert {len(line) for line in lines} == {3}, lines
    shapes = {(line[0], line[1]): line[2] for line in lines}
    assert "m64n64k16" in shapes["90", "None"]
    assert "m64n64k32" in shapes["90", "fp8"]
    assert "m64n64k16" in shapes["90", "w4a16"]
    assert all("tcgen05.mma" in shapes["100", scheme] for scheme in ("None", "fp8", "w4a16"))
