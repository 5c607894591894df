"""Which `quantization_config` is read, and that every key that would change the numbers is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimode.core.errors import ConfigError
from trimode.kernels.linear.quantized import Scheme
from trimode.tests.workers.quantized import FOREIGN, FOREIGN_NAMES, edit_quantization, foreign_checkpoint, read_object
from trimode.workers.model.checkpoint import read_config
from trimode.workers.model.quantization_config import (
    Groups,
    Method,
    quantization_problems,
    read_quantization,
)

GROUP = ("config_groups", "group_0")


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "method", "scheme", "groups", "less_one"),
    [
        ("awq", Method.awq, Scheme.w4a16, [(32, False)], False),
        ("ct_fp8_channel", Method.compressed_tensors, Scheme.fp8, [], False),
        ("ct_fp8_tensor", Method.compressed_tensors, Scheme.fp8, [], False),
        ("ct_int4_asymmetric", Method.compressed_tensors, Scheme.w4a16, [(32, False)], False),
        ("ct_int4_symmetric", Method.compressed_tensors, Scheme.w4a16, [(64, True), (-1, True)], False),
        ("ct_int8_channel", Method.compressed_tensors, Scheme.w8a16, [], False),
        ("gptq_v1", Method.gptq, Scheme.w4a16, [(32, False)], True),
        ("gptq_v2", Method.gptq, Scheme.w4a16, [(32, False)], False),
    ],
)
def test_what_other_libraries_write(
    name: str, method: Method, scheme: Scheme, groups: list[tuple[int, bool]], less_one: bool
) -> None:
    stored = read_quantization(read_object(FOREIGN / name / "config.json"))
    assert stored is not None
    assert (stored.method, stored.scheme, stored.zeros_less_one) == (method, scheme, less_one)
    assert stored.groups == tuple(Groups(size, symmetric) for size, symmetric in groups)


def test_groups_of_different_bits_are_refused(tmp_path: Path) -> None:
    folder = foreign_checkpoint("ct_int4_symmetric", tmp_path / "model")
    edit_quantization(folder, "config_groups", "group_1", "weights", num_bits=8)
    assert "config_groups: got groups of 4 and of 8 bits; valid: all of them alike" in refusal(folder)


def test_a_plain_checkpoint_has_none() -> None:
    for raw in ({}, {"quantization_config": None}):
        assert quantization_problems(raw) == []
        assert read_quantization(raw) is None


@pytest.mark.parametrize(
    ("name", "path", "changes", "words"),
    [
        ("awq", (), {"quant_method": "bitsandbytes"}, "quant_method: got 'bitsandbytes'; valid: 'compressed-tensors',"),
        ("awq", (), {"bits": 8}, "bits: got 8; valid: 4"),
        ("awq", (), {"version": "gemv"}, "version: got 'gemv'; valid: 'gemm', 'GEMM'"),
        ("awq", (), {"zero_point": False}, "zero_point: got False; valid: True"),
        ("awq", (), {"group_size": 48}, "group_size: got 48; valid: a multiple of 32, or -1 for a whole row"),
        ("awq", (), {"group_size": ...}, "group_size is missing"),
        ("awq", (), {"marlin": True}, "marlin: unknown; valid: a config without it"),
        ("gptq_v1", (), {"desc_act": True}, "desc_act: got True; valid: False"),
        ("gptq_v1", (), {"desc_act": ...}, "desc_act is missing"),
        ("gptq_v1", (), {"bits": 3}, "bits: got 3; valid: 4"),
        ("gptq_v1", (), {"checkpoint_format": "marlin"}, "checkpoint_format: got 'marlin'; valid: 'gptq', 'gptq_v2'"),
        ("gptq_v1", (), {"format": "gptq_v2"}, "format: got 'gptq_v2'; valid: the same as checkpoint_format"),
        ("gptq_v1", (), {"lm_head": True}, "lm_head: got True"),
        ("gptq_v1", (), {"dynamic": {"+:.*": {"bits": 8}}}, "dynamic: got {'+:.*': {'bits': 8}}"),
        ("gptq_v1", (), {"pack_dtype": "int16"}, "pack_dtype: got 'int16'; valid: 'int32'"),
        ("gptq_v1", (), {"rotation": "hadamard"}, "rotation: got 'hadamard'"),
        ("ct_int4_asymmetric", (), {"format": "int-quantized"}, "format: got 'int-quantized'; valid: 'pack-"),
        ("ct_int4_asymmetric", (), {"quantization_status": "frozen"}, "quantization_status: got 'frozen'; valid:"),
        ("ct_int4_asymmetric", (), {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme: got {'num_bits': 8}"),
        ("ct_int4_asymmetric", (), {"sparsity_config": {"format": "sparse-24"}}, "sparsity_config: got {'format'"),
        ("ct_int4_asymmetric", (), {"transform_config": {"R1": {}}}, "transform_config: got {'R1'"),
        ("ct_int4_asymmetric", (), {"config_groups": {}}, "config_groups: got {}; valid: an object with at least one"),
        ("ct_int4_asymmetric", (), {"config_groups": {"W4A16": ["Linear"]}}, "config_groups.W4A16: got ['Linear']"),
        ("ct_int4_asymmetric", GROUP, {"input_activations": {"num_bits": 8}}, "group_0.input_activations: got {'num_"),
        ("ct_int4_asymmetric", GROUP, {"output_activations": {}}, "group_0.output_activations: got {}; valid: None"),
        ("ct_int4_asymmetric", GROUP, {"weights": None}, "group_0.weights: got None; valid: an object"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"num_bits": 3}, "group_0.weights.num_bits: got 3; valid: 4, 8"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"num_bits": 8}, "weights.strategy: got 'group'; valid: 'channel'"),
        ("ct_int8_channel", (*GROUP, "weights"), {"symmetric": False}, "weights.symmetric: got False; valid: True"),
        ("ct_int8_channel", (*GROUP, "weights"), {"strategy": ...}, "weights.strategy is missing"),
        ("ct_int8_channel", (*GROUP, "weights"), {"group_size": 32}, "weights.group_size: got 32; valid: None, -1"),
        ("ct_int8_channel", GROUP, {"input_activations": {"num_bits": 8}}, "group_0.input_activations: got {'num_"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"type": "float"}, "weights.type: got 'float'; valid: 'int'"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"group_size": 16}, "weights.group_size: got 16; valid: a mult"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"group_size": None}, "weights.group_size: got None"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"actorder": "group"}, "weights.actorder: got 'group'; valid"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"strategy": "block"}, "weights.strategy: got 'block'; valid: 'gr"),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"dynamic": True}, "weights.dynamic: got True; valid: False"),
        ("ct_fp8_channel", GROUP, {"input_activations": None}, "input_activations: got None; valid: an object: e4m3"),
        ("ct_fp8_channel", (*GROUP, "input_activations"), {"dynamic": False}, "input_activations.dynamic: got False"),
        ("ct_fp8_channel", (*GROUP, "input_activations"), {"dynamic": ...}, "input_activations.dynamic is missing"),
        ("ct_fp8_channel", (*GROUP, "input_activations"), {"strategy": "tensor"}, "strategy: got 'tensor'; valid"),
        ("ct_fp8_channel", (*GROUP, "weights"), {"strategy": "block"}, "weights.strategy: got 'block'; valid: 'ch"),
        ("ct_fp8_channel", (*GROUP, "weights"), {"symmetric": False}, "weights.symmetric: got False; valid: True"),
        ("ct_fp8_channel", (*GROUP, "weights"), {"num_bits": 4}, "weights.num_bits: got 4; valid: 8"),
    ],
)  # fmt: skip
def test_what_is_not_done_here_is_refused_by_its_key(
    name: str, path: tuple[str, ...], changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    folder = foreign_checkpoint(name, tmp_path / "model")
    edit_quantization(folder, *path, **changes)
    message = refusal(folder)
    assert "config.json: quantization_config." in message
    assert words in message


@pytest.mark.parametrize(
    ("name", "path", "changes"),
    [
        ("awq", (), {"modules_to_not_convert": ["diffusion_head"], "group_size": -1}),
        ("gptq_v1", (), {"checkpoint_format": ..., "damp_percent": 0.01, "meta": {}, "sym": True, "dynamic": {}}),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"observer": "mse", "actorder": "weight", "group_size": 128}),
        ("ct_int4_asymmetric", (*GROUP, "weights"), {"strategy": "channel", "group_size": None}),
    ],
)
def test_what_changes_no_number_is_accepted(
    name: str, path: tuple[str, ...], changes: dict[str, object], tmp_path: Path
) -> None:
    folder = foreign_checkpoint(name, tmp_path / "model")
    edit_quantization(folder, *path, **changes)
    assert read_config(folder).stored is not None


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["group", 4, 128, "int"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)


@given(st.sampled_from(FOREIGN_NAMES), st.data())
def test_no_config_ends_in_another_error(name: str, data: st.DataObject) -> None:
    raw = json.loads((FOREIGN / name / "config.json").read_text())
    at = raw
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(VALUES)
    if not quantization_problems(raw):
        read_quantization(raw)
