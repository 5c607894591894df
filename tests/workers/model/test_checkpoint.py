"""Bad checkpoints and adapters are refused with one error that lists what is wrong, before anything is allocated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trimode.core.errors import ConfigError
from trimode.kernels.rope import yarn_inv_freq
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO
from trimode.workers.model.checkpoint import read_config
from trimode.workers.runtime import Runtime


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MICRO, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(folder: Path, lora: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        Runtime(micro_settings(model=str(folder), lora=str(folder / "linear_spec_lora") if lora else None))
    return str(caught.value)


def test_missing_extra_and_misshapen_tensors_are_listed_at_once(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["encoder.norm.weight"]
        tensors["surplus.weight"] = torch.zeros(2)
        tensors["diffusion_head.weight"] = torch.zeros(3, 4)

    edit_tensors(copy / "model.safetensors", change)
    words = refusal(copy)
    assert "missing encoder.norm.weight" in words
    assert "extra surplus.weight" in words
    assert "diffusion_head.weight has shape [3, 4], expected [128, 128]" in words


def test_a_truncated_file_is_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    assert "model.safetensors is truncated" in refusal(copy)


def test_no_weights_at_all(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refusal(copy)


def test_an_unknown_model_type(copy: Path) -> None:
    edit_json(copy / "config.json", model_type="llama")
    assert "model_type: got 'llama'; valid: 'nemotron_labs_diffusion'" in refusal(copy)


def test_sizes_are_read_never_defaulted(copy: Path) -> None:
    raw = json.loads((copy / "config.json").read_text())
    del raw["head_dim"], raw["mask_token_id"]
    (copy / "config.json").write_text(json.dumps(raw))
    words = refusal(copy)
    assert "head_dim is missing" in words
    assert "mask_token_id is missing" in words


@pytest.mark.parametrize("value", [128, 10**30, -1, -100, 1.0, "2", True, float("nan"), [2, 128], [], [None]])
@pytest.mark.parametrize("key", ["mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id"])
def test_a_token_id_outside_of_the_vocabulary_is_refused_by_name(copy: Path, key: str, value: object) -> None:
    edit_json(copy / "config.json", **{key: value})
    assert f"{key}: got " in refused_config(copy)


def test_token_ids_inside_of_the_vocabulary_are_read(copy: Path) -> None:
    edit_json(copy / "config.json", mask_token_id=127, eos_token_id=[0, 2], pad_token_id=0, bos_token_id=None)
    config = read_config(copy)
    assert (config.mask_token_id, config.eos_token_ids) == (127, (0, 2))


def test_the_mask_is_no_end_token(copy: Path) -> None:
    edit_json(copy / "config.json", eos_token_id=[2, 100])
    assert "mask_token_id: got 100; valid: no end token" in refused_config(copy)


@pytest.mark.parametrize("value", [0, -4, 4.0, 2.5, "4", True, [4], {}, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings"],
)  # fmt: skip
def test_a_size_that_is_no_positive_integer_is_refused_by_name(copy: Path, key: str, value: object) -> None:
    edit_json(copy / "config.json", **{key: value})
    assert f"{key}: got " in refused_config(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: got 3; valid: a divisor of num_attention_heads, which is 4"),
        ({"num_key_value_heads": 8}, "num_key_value_heads: got 8"),
        ({"head_dim": 33}, "head_dim: got 33; valid: an even number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: got 1000000000"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps: got -1e-05"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: got nan"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps: got '1e-5'"),
        ({"hidden_act": "gelu"}, "hidden_act: got 'gelu'; valid: 'silu'"),
        (
            {"quantization_config": {"bits": 4}},
            "quantization_config.quant_method: got None; valid: 'compressed-tensors', 'awq', 'gptq'",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "factor is missing"),
        ({"rope_parameters": None, "rope_scaling": [1]}, "rope_parameters: got [1]"),
        ({"model_type": ["x"] * 1000}, "model_type: got ['x'"),
    ],
)
def test_what_the_model_cannot_be_built_from_is_refused_by_name(
    copy: Path, changes: dict[str, object], words: str
) -> None:
    edit_json(copy / "config.json", **changes)
    assert words in refused_config(copy)


@pytest.mark.parametrize("limit", [-1, -4096])
def test_a_context_limit_is_positive(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"max_position_embeddings: got {limit}; valid: an integer from 1"):
        read_config(MICRO, limit)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}", b"\xff", b"", b"[]", b"null"])
def test_a_config_that_is_no_object_is_refused_with_its_path(copy: Path, text: bytes) -> None:
    (copy / "config.json").write_bytes(text)
    assert "config.json" in refused_config(copy)


def test_a_config_that_is_a_folder_is_refused_with_its_path(copy: Path) -> None:
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()
    assert "config.json cannot be read" in refused_config(copy)


def refused_config(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(folder)
    return str(caught.value)


def test_weights_that_are_no_floats_are_refused_by_name(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.norm.weight"] = tensors["encoder.norm.weight"].to(torch.int8)

    edit_tensors(copy / "model.safetensors", change)
    assert "encoder.norm.weight has dtype I8, valid: BF16, F16, F32, F64" in refusal(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target_modules": ["q_proj", "o_proj"]}, "target_modules: got ['q_proj', 'o_proj']; valid: ['o_proj']"),
        ({"use_dora": True}, "use_dora: got True"),
        ({"r": 3}, "does not fit this base model (r 3"),
        ({"peft_type": "IA3"}, "peft_type: got 'IA3'"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_name(copy: Path, change: dict[str, object], words: str) -> None:
    edit_json(copy / "linear_spec_lora" / "adapter_config.json", **change)
    assert words in refusal(copy, lora=True)


def test_an_adapter_of_another_base_is_refused(copy: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("lora_B.weight"))
        tensors[name] = torch.zeros(64, tensors[name].shape[1])

    edit_tensors(copy / "linear_spec_lora" / "adapter_model.safetensors", change)
    assert "does not fit this base model" in refusal(copy, lora=True)


def test_shards_load_like_one_file(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for part, chosen in enumerate((names[:10], names[10:])):
        file = f"model-{part + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, copy / file)
        weight_map |= dict.fromkeys(chosen, file)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded = Runtime(micro_settings(model=str(copy), lora=None)).engine.model
    assert torch.equal(loaded.embedding, tensors["encoder.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("theta", "factor", "expected"),
    [
        (1e6, 16.0, [1, 0.8058422, 0.1778279, 0.03162278, 4.382954e-3, 4.881630e-4, 3.382353e-4, 4.961135e-5,
                     1.111425e-5, 1.976424e-6, 3.514633e-7, 7.755861e-8]),
        (1e9, 16.0, [1, 0.7233942, 0.07498942, 4.305426e-3, 5.930107e-5, 2.732153e-6, 1.976424e-6, 5.412277e-7,
                     1.482109e-7, 1.111425e-8, 8.334509e-10, 8.639826e-11]),
        (1e6, 0.25, [1, 0.8058422, 0.1778279, 0.03162278, 9.592881e-3, 3.649817e-3, 3.117647e-3, 1.612369e-3,
                     7.113118e-4, 1.264911e-4, 2.249365e-5, 4.963751e-6]),
    ],
)  # fmt: skip
def test_yarn_frequencies_of_the_released_models(theta: float, factor: float, expected: list[float]) -> None:
    inv_freq = yarn_inv_freq(128, theta, factor, 16384, 32, 1)
    index = [0, 1, 8, 16, 24, 31, 32, 36, 40, 48, 56, 63]
    assert inv_freq[index].tolist() == pytest.approx(expected, rel=1e-5)


def test_equal_mscales_leave_cos_and_sin_unscaled() -> None:
    config = read_config(MICRO)
    assert config.rope.attention_factor == 1.0
    assert config.rope.query_scale_beta == 0.1
