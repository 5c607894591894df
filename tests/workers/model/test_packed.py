"""Packed checkpoints: what other libraries wrote is read to the last bit, and what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trimode.core.errors import ConfigError
from trimode.kernels.linear.quantized import Scheme, dequantize, pack
from trimode.tests.kernels.numerics import normal
from trimode.tests.workers.quantized import FOREIGN, FOREIGN_NAMES, LAYER, foreign_checkpoint
from trimode.workers.model.checkpoint import WeightFiles, open_weights, read_config
from trimode.workers.model.packed import check_weights, is_packed, matrices, read_packed
from trimode.workers.model.quantization_config import WHOLE_ROW, Groups, Method, StoredQuantization

Q = f"{LAYER}self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def read(folder: Path, name: str) -> torch.Tensor:
    config, files = read_config(folder), open_weights(folder)
    check_weights(files, config, "checkpoint")
    assert config.stored is not None
    return dequantize(read_packed(files, config.stored, name, torch.bfloat16))


def edited(folder: Path, change: Callable[[Tensors], None]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def refusal(folder: Path, name: str = Q) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, name)
    return str(caught.value)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_matrices_that_other_libraries_packed_are_theirs_to_the_last_bit(name: str, tmp_path: Path) -> None:
    folder = foreign_checkpoint(name, tmp_path / "model")
    expected = load_file(FOREIGN / name / "expected.safetensors")
    assert len(expected) == 3
    for matrix, numbers in expected.items():
        assert numbers.unique().numel() > 100
        assert torch.equal(read(folder, matrix).to(numbers.dtype), numbers)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_every_matrix_of_the_layers_is_packed_and_the_head_is_not(name: str, tmp_path: Path) -> None:
    folder = foreign_checkpoint(name, tmp_path / "model")
    config, files = read_config(folder), open_weights(folder)
    packed = {matrix: is_packed(files, config.stored, matrix) for matrix in matrices(config)}
    assert packed.pop("diffusion_head") is False
    assert len(packed) == 7
    assert all(packed.values())


@pytest.mark.parametrize(
    ("stored_size", "inputs", "size"), [(96, 192, 32), (192, 192, 64), (256, 512, 128), (-1, 96, 32)]
)
def test_groups_of_other_sizes_are_split_without_changing_a_number(
    stored_size: int, inputs: int, size: int, tmp_path: Path
) -> None:
    codes = torch.randint(0, 16, (8, inputs), generator=torch.Generator().manual_seed(0))
    width = inputs if stored_size == WHOLE_ROW else stored_size
    scales, zeros = normal(8, inputs // width).abs(), torch.randint(0, 16, (8, inputs // width))
    tensors = {
        "m.weight_packed": pack(codes).view(torch.int32),
        "m.weight_scale": scales,
        "m.weight_zero_point": pack(zeros.T.contiguous()).view(torch.int32).T.contiguous(),
        "m.weight_shape": torch.tensor([8, inputs]),
    }
    save_file(tensors, tmp_path / "m.safetensors")
    groups = (Groups(stored_size, symmetric=False),)
    stored = StoredQuantization(method=Method.compressed_tensors, scheme=Scheme.w4a16, groups=groups)
    got = read_packed(WeightFiles([tmp_path / "m.safetensors"]), stored, "m", torch.bfloat16)
    assert got.group_size == size
    plain = (codes.view(8, -1, width) - zeros[..., None]) * scales[..., None]
    assert torch.equal(dequantize(got), plain.flatten(1))


def test_an_absent_g_idx_means_groups_in_order(tmp_path: Path) -> None:
    folder = foreign_checkpoint("gptq_v1", tmp_path / "model")
    before = read(folder, Q)

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("g_idx")]:
            del tensors[name]

    assert torch.equal(read(edited(folder, change), Q), before)


def test_another_order_of_inputs_is_refused(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{Q}.g_idx"] = tensors[f"{Q}.g_idx"].flip(0)

    words = refusal(edited(foreign_checkpoint("gptq_v2", tmp_path / "model"), change))
    assert f"{Q}.g_idx puts inputs into groups by another order; valid: weights quantised with desc_act false" in words


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_every_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    parts = [part for part in load_file(FOREIGN / name / "packed.safetensors") if part.startswith(f"{Q}.")]
    for number, part in enumerate(parts):
        if part.endswith("g_idx"):
            continue

        def change(tensors: Tensors, part: str = part) -> None:
            del tensors[part]

        words = refusal(edited(foreign_checkpoint(name, tmp_path / str(number)), change))
        if part.endswith("weight_zero_point"):
            assert f"{Q} has 64 inputs and scales [64, 2], without zeros" in words
        else:  # without its codes a matrix is expected plain
            assert f"missing {f'{Q}.weight' if part.endswith(('weight_packed', 'qweight')) else part}" in words


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_a_wrong_shape_or_dtype_is_named(name: str, tmp_path: Path) -> None:
    parts = [part for part in load_file(FOREIGN / name / "packed.safetensors") if part.startswith(f"{Q}.")]
    for number, part in enumerate(parts):

        def narrow(tensors: Tensors, part: str = part) -> None:
            tensors[part] = torch.cat([tensors[part], tensors[part]]).contiguous()

        def retype(tensors: Tensors, part: str = part) -> None:
            tensors[part] = tensors[part].to(torch.float32 if tensors[part].dtype != torch.bfloat16 else torch.int16)

        words = refusal(edited(foreign_checkpoint(name, tmp_path / f"n{number}"), narrow))
        assert f"{part} has shape" in words or f"{Q} has 64 inputs and scales" in words
        if not part.endswith("scales"):
            words = refusal(edited(foreign_checkpoint(name, tmp_path / f"t{number}"), retype))
            assert Q in words


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_scales_that_are_not_finite_are_refused(name: str, tmp_path: Path) -> None:
    scale = f"{Q}.weight_scale" if name.startswith("ct") else f"{Q}.scales"

    def change(tensors: Tensors) -> None:
        tensors[scale].flatten()[0] = float("nan")
        tensors[scale] = tensors[scale].clone()

    words = refusal(edited(foreign_checkpoint(name, tmp_path / "model"), change))
    assert f"the scales of {Q}: got NaN or infinity; valid: finite" in words


def test_codes_of_fp8_that_are_nan_are_refused(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{Q}.weight"].view(torch.uint8)[3, 4] = 0xFF

    words = refusal(edited(foreign_checkpoint("ct_fp8_channel", tmp_path / "model"), change))
    assert f"{Q}.weight: got NaN; valid: finite" in words


def test_the_shape_of_another_matrix_is_refused(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{Q}.weight_shape"] = torch.tensor([64, 63])

    words = refusal(edited(foreign_checkpoint("ct_int4_asymmetric", tmp_path / "model"), change))
    assert f"{Q}.weight_shape: got [64, 63]; valid: (64, 64)" in words


def test_a_checkpoint_without_any_packed_matrix_is_refused(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".qweight")]:
            del tensors[name]

    words = refusal(edited(foreign_checkpoint("awq", tmp_path / "model"), change))
    assert "quantization_config is awq, but no matrix is packed in that way" in words
