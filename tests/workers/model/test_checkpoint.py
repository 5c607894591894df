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
