"""The adapter's factors: the formula of LoRA, a rank of any size, rows that do not depend on each other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from trimode.core.errors import ConfigError
from trimode.kernels import linear
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm.jit import num_lanes
from trimode.tests.workers.micro import MICRO
from trimode.workers.decode.chunk import Chunk
from trimode.workers.model.adapter import NO_EFFECT, NUMBERS, VALUES, Adapter, load_adapter, open_adapter
from trimode.workers.model.batch import pack
from trimode.workers.model.checkpoint import WeightFiles, read_config

DTYPES = [torch.bfloat16, torch.float32]
NAME = "base_model.model.encoder.layers.0.self_attn.o_proj.lora_%s.weight"


def loaded(dtype: torch.dtype) -> tuple[WeightFiles, Adapter]:
    files, scale = open_adapter(MICRO / "linear_spec_lora", read_config(MICRO))
    return files, load_adapter(files, scale, 4, torch.empty(0, dtype=dtype))


def applied(adapter: Adapter, x: torch.Tensor) -> torch.Tensor:
    return linear.apply(linear.apply(x, adapter.a[0]), adapter.b[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_factors_multiply_as_the_files_say(dtype: torch.dtype) -> None:
    files, adapter = loaded(dtype)
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = x.double() @ files.tensor(NAME % "A").double().T @ files.tensor(NAME % "B").double().T
    assert torch.allclose(applied(adapter, x).double(), exact, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.skipif(not num_lanes(), reason="bitwise only with our CPU kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    _, adapter = loaded(dtype)
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = applied(adapter, x)
    for row in range(9):
        assert torch.equal(applied(adapter, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("on", [(False, True, False), (True, True, True)])
def test_the_adapter_acts_on_its_tokens_alone(dtype: torch.dtype, on: tuple[bool, ...]) -> None:
    _, adapter = loaded(dtype)
    chunks = [
        Chunk("draft", [1, 2, 3], 0, causal=True, keep_kv=False, rows=(), purpose="draft", lora=lora) for lora in on
    ]
    batch = pack(chunks, [[number] for number in range(3)], 16, torch.device("cpu"))
    static = dataclasses.replace(batch, lora_rows=None, lora_all=False)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, width, generator=generator).to(dtype) for width in (128, 128))
    y[0] = -0.0  # the sum with a zero would change its sign
    result = adapter.add(y, x, 0, static)
    assert batch.lora_T is not None
    off = batch.lora_T == 0
    assert torch.equal(result[off].view(torch.uint8), y[off].view(torch.uint8))
    assert torch.equal(result[~off], (y + applied(adapter, x) * adapter.scale)[~off])
    if num_lanes():
        assert torch.equal(result, adapter.add(y, x, 0, batch))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gpu_s_kernel_gives_what_the_products_give(dtype: torch.dtype) -> None:
    if not runtime.is_interpreter():
        pytest.skip("Triton is not there, or compiles for the GPU in this process")
    from trimode.tests.kernels.interpreter import support_bfloat16

    support_bfloat16()
    _, products = loaded(dtype)
    chunks = [Chunk("draft", [1] * 9, 0, True, False, (), "draft", lora=lora) for lora in (False, True)]
    batch = pack(chunks, [[0], [1]], 16, torch.device("cpu"))
    x, y = (torch.randn(18, 128, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    expected = products.add(y.clone(), x, 0, batch)
    with runtime.interpreted():
        _, fused = loaded(dtype)
        assert fused.fused
        got = fused.add(y.clone(), x, 0, batch)
    assert torch.equal(got[:9], y[:9])
    assert torch.allclose(got, expected, atol=0.1 if dtype == torch.bfloat16 else 1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MICRO / "linear_spec_lora", tmp_path / "lora"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        open_adapter(folder, read_config(MICRO))
    return str(caught.value)


FIELDS = {field.name for field in dataclasses.fields(peft.LoraConfig)}


def test_the_config_that_peft_writes_for_plain_lora_is_accepted(folder: Path) -> None:
    peft.LoraConfig(r=8, lora_alpha=32, target_modules=["o_proj"]).save_pretrained(folder)
    assert open_adapter(folder, read_config(MICRO))[1] == 4.0


@pytest.mark.parametrize("value", ["different", 3.5, {"key": 1}, [1], 2])
@pytest.mark.parametrize("key", sorted(FIELDS - NO_EFFECT - set(NUMBERS)))
def test_every_field_of_the_installed_peft_is_known_and_refused_where_it_differs(
    folder: Path, key: str, value: object
) -> None:
    """A newer peft with a field that is not in the lists fails here; users meet the refusal of an unknown key."""
    assert key in VALUES
    edit(folder, **{key: value})
    assert f"{key}: got " in refused(folder)


@pytest.mark.parametrize("value", [None, False, 1, {}])
def test_an_unknown_key_is_refused_whatever_it_holds(folder: Path, value: object) -> None:
    edit(folder, use_next_idea=value)
    assert "use_next_idea: unknown" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("init_lora_weights", how)
            for how in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "eva", "lora_ga")
        ],
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("exclude_modules", ["layers.0.self_attn.o_proj"]),
        ("target_parameters", ["o_proj.weight"]),
        ("arrow_config", {"top_k": 1}),
        ("use_rslora", True),
        ("use_dora", 1),
        ("bias", "all"),
        ("rank_pattern", {"o_proj": 4}),
        ("layers_to_transform", 0),
        ("trainable_token_indices", [1]),
        ("target_modules", "all-linear"),
        ("peft_type", None),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(folder: Path, key: str, value: object) -> None:
    edit(folder, **{key: value})
    assert f"{key}: got " in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0, True, "8", [8], 10**400])
@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_a_rank_and_an_alpha_are_positive_numbers(folder: Path, key: str, value: object) -> None:
    edit(folder, **{key: value})
    assert f"{key}: got " in refused(folder)


@pytest.mark.parametrize("rank", [8.0, 8.5])
def test_a_rank_is_an_integer_and_is_not_rounded(folder: Path, rank: float) -> None:
    edit(folder, r=rank)
    assert f"r: got {rank}" in refused(folder)


def test_an_alpha_need_not_be_an_integer(folder: Path) -> None:
    edit(folder, lora_alpha=2.5)
    assert open_adapter(folder, read_config(MICRO))[1] == 2.5 / 8


@pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules"])
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    assert f"{key} is missing" in refused(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_factors_that_are_no_floats_are_refused_by_name(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {NAME % "A": tensors[NAME % "A"].to(dtype)}, folder / "adapter_model.safetensors")
    assert f"{NAME % 'A'} has dtype " in refused(folder)


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_factors_that_are_not_finite_are_refused_by_name(folder: Path, side: str, value: float) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    factor = tensors[NAME % side].double()
    factor[0, 0] = value
    save_file(tensors | {NAME % side: factor}, folder / "adapter_model.safetensors")
    files, scale = open_adapter(folder, read_config(MICRO))
    with pytest.raises(ConfigError, match=rf"{NAME % side}: got NaN or infinity"):
        load_adapter(files, scale, 4, torch.empty(0, dtype=torch.bfloat16))
