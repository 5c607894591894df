"""Weights quantised at load: what is quantised, how exact the model stays, and how much memory loading takes."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trimode.core.errors import ConfigError
from trimode.core.worker import WorkerInfo
from trimode.kernels import linear
from trimode.kernels.linear import compact
from trimode.kernels.linear.quantized import Scheme, dequantize, quantize
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO
from trimode.tests.workers.quantized import FOREIGN_NAMES, LAYER, foreign_checkpoint
from trimode.workers.decode.chunk import Chunk
from trimode.workers.model.batch import pack
from trimode.workers.model.checkpoint import WeightFiles, open_weights, read_config
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache
from trimode.workers.model.packed import matrices
from trimode.workers.model.quantized import LoadOptions
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.runtime import Runtime

SCHEMES = list(Scheme)
CPU = torch.device("cpu")
BOUND_OF_ROWS = 2**-4 * 16**0.5
"""Of the relative error of logits with rows in e4m3. A number is rounded by at most 2^-4 of itself, so a product by
2^-4 of its size at most; the errors of the 16 products of the four layers are independent and add up as squares."""
IN_LAYERS = {
    "encoder.layers.*.self_attn.q_proj",
    "encoder.layers.*.self_attn.k_proj",
    "encoder.layers.*.self_attn.v_proj",
    "encoder.layers.*.self_attn.o_proj",
    "encoder.layers.*.mlp.gate_proj",
    "encoder.layers.*.mlp.up_proj",
    "encoder.layers.*.mlp.down_proj",
}


def loaded(folder: Path, dtype: torch.dtype, **options: object) -> TriModeModel:
    return TriModeModel(read_config(folder), open_weights(folder), dtype, CPU, LoadOptions(**options))  # type: ignore[arg-type]


def logits(model: TriModeModel, *, causal: bool = True, lora: bool = False) -> torch.Tensor:
    """Of all rows of a prompt of 70 tokens, longer than the context that positions are scaled from."""
    ids = [(7 * place) % 90 + 3 for place in range(70)]
    rows = range(70)
    chunk = Chunk("decode", ids, 0, causal=causal, keep_kv=True, rows=rows, purpose="test", lora=lora)
    cache = KVCache(model.config, 8, model.dtype, CPU)
    batch = pack([chunk], [list(range(-(-70 // PAGE_SIZE)))], PAGE_SIZE, CPU)
    return model.head(model.forward(batch, cache))


def dequantised_copy(folder: Path, scheme: Scheme, *, head: bool = False) -> Path:
    """The micro checkpoint with the numbers that quantising leaves, in float32 and plain."""
    shutil.copytree(MICRO, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in matrices(read_config(MICRO)):
        if head or name != "diffusion_head":
            tensors[f"{name}.weight"] = dequantize(quantize(tensors[f"{name}.weight"], scheme, torch.float32))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_layers_are_quantised_and_the_head_if_asked_for(scheme: Scheme, head: bool) -> None:
    model = loaded(MICRO, torch.bfloat16, scheme=scheme, head=head)
    assert model.scheme is scheme
    assert set(model.quantized) == IN_LAYERS | ({"diffusion_head"} if head else set())
    assert model.embedding.dtype == torch.bfloat16
    assert model.norm.dtype == torch.bfloat16
    weights = [weight for layer in model.layers for weight in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    assert all(weight.scheme is scheme for weight in weights)
    assert (model._head.scheme is not None) == head


def test_bytes_of_the_weights() -> None:
    """128 inputs: 2 bytes plain, 1 byte and 4 per output in fp8, 1 byte and 4 per
    output in w8a16, half a byte and 5 per group in w4a16, 8 where the CPU kernel reads zeros as float32."""
    layer = (4 + 2 + 2 + 4 + 12 + 12) * 32 * 128 + 128 * 384
    outputs, groups = (4 + 2 + 2 + 4 + 12 + 12) * 32 + 128, (4 + 2 + 2 + 4 + 12 + 12) * 32 + 128 * 3
    others = 2 * (2 * 128 * 128 + 128 + 4 * 2 * 128)
    assert loaded(MICRO, torch.bfloat16).num_weight_bytes == others + 4 * 2 * layer
    assert loaded(MICRO, torch.bfloat16, scheme=Scheme.fp8).num_weight_bytes == others + 4 * (layer + 4 * outputs)
    assert loaded(MICRO, torch.bfloat16, scheme=Scheme.w8a16).num_weight_bytes == others + 4 * (layer + 4 * outputs)
    for_group = 5 if compact.missing() else 8
    int4 = loaded(MICRO, torch.bfloat16, scheme=Scheme.w4a16)
    assert int4.num_weight_bytes == others + 4 * (layer // 2 + for_group * groups)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_w4a16_is_as_exact_as_the_plain_model_of_its_numbers(dtype: torch.dtype, causal: bool, tmp_path: Path) -> None:
    """Rows stay as they are, so the only errors are those of a plain model in the same dtype."""
    copy = dequantised_copy(tmp_path / "model", Scheme.w4a16)
    exact = logits(loaded(copy, torch.float32), causal=causal).double()  # 2^-15 of the errors of bfloat16
    if dtype == torch.float32:
        got = logits(loaded(MICRO, dtype, scheme=Scheme.w4a16), causal=causal)
        assert (got - exact).norm() <= 70 * 4 * 7 * 2**-24 * exact.norm()  # a rounding per product, all in one way
        return
    plain = logits(loaded(copy, dtype), causal=causal)
    assert_no_worse(logits(loaded(MICRO, dtype, scheme=Scheme.w4a16), causal=causal), plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fp8_is_within_the_rounding_of_its_rows(dtype: torch.dtype, tmp_path: Path) -> None:
    exact = logits(loaded(dequantised_copy(tmp_path / "model", Scheme.fp8), torch.float32))
    got = logits(loaded(MICRO, dtype, scheme=Scheme.fp8))
    error = (got - exact).norm() / exact.norm()
    assert error <= BOUND_OF_ROWS
    assert error > 2**-10  # rows are rounded at all


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_head_is_that_of_its_numbers(scheme: Scheme, head: bool, tmp_path: Path) -> None:
    hidden = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    weight = load_file(dequantised_copy(tmp_path / "model", scheme, head=head) / "model.safetensors")
    exact = hidden.double() @ weight["diffusion_head.weight"].double().T
    got = loaded(MICRO, torch.float32, scheme=scheme, head=head).head(hidden)
    bound = 2**-4 if head and scheme is Scheme.fp8 else 1e-6
    assert ((got - exact).norm(dim=1) <= bound * exact.norm(dim=1)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_dtype_of_the_rows_changes_no_weight(scheme: Scheme) -> None:
    kinds = {dtype: loaded(MICRO, dtype, scheme=scheme).layers[2].gate_up for dtype in DTYPES}
    one, other = kinds[torch.float32].quantized, kinds[torch.bfloat16].quantized
    assert one is not None
    if other is not None:
        assert torch.equal(dequantize(one), dequantize(other))
    else:
        units = torch.eye(128, dtype=torch.bfloat16)
        assert torch.equal(linear.apply(units, kinds[torch.bfloat16]), dequantize(one).T.bfloat16())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_at_most_one_plain_matrix_is_held_while_a_model_is_quantised(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    original = WeightFiles.tensor
    most = 0

    def tensor(self: WeightFiles, name: str) -> torch.Tensor:
        nonlocal most
        most = max(most, sum(reference() is not None for reference in alive))
        found = original(self, name)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(WeightFiles, "tensor", tensor)
    model = loaded(MICRO, torch.bfloat16, scheme=scheme, head=True)
    assert len(alive) == len(open_weights(MICRO).shapes)
    assert most <= 1  # the one before, whose name still refers to it
    assert sum(reference() is not None for reference in alive) == 0
    assert model.num_weight_bytes > 0


@pytest.mark.parametrize("name", FOREIGN_NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_checkpoints_of_other_libraries_run(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = loaded(foreign_checkpoint(name, tmp_path / "model"), dtype)
    schemes = {"fp8": Scheme.fp8, "int8": Scheme.w8a16}
    assert model.scheme is next((scheme for part, scheme in schemes.items() if part in name), Scheme.w4a16)
    assert model.quantized == []
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_adapter_is_added_to_a_quantised_matrix_in_the_dtype_of_the_rows(scheme: Scheme, tmp_path: Path) -> None:
    plain, quantised = (
        Runtime(micro_settings(model=str(model), quantization=name)).engine.model
        for model, name in ((dequantised_copy(tmp_path / "model", scheme), "none"), (MICRO, scheme.value))
    )
    assert quantised.adapter is not None
    factors = (*quantised.adapter.a, *quantised.adapter.b)
    assert all(factor.dtype == torch.float32 and factor.scheme is None for factor in factors)
    exact, got = logits(plain, lora=True), logits(quantised, lora=True)
    bound = BOUND_OF_ROWS if scheme is Scheme.fp8 else 1e-4
    assert (got - exact).norm() <= bound * exact.norm()
    added = float((exact - logits(plain)).norm())
    assert added > 0.01 * exact.norm()
    assert float((got - logits(quantised)).norm()) == pytest.approx(added, rel=0.2)


@pytest.mark.parametrize(("scheme", "head"), [("none", False), ("fp8", False), ("w8a16", False), ("w4a16", True)])
def test_a_worker_says_what_it_quantised(scheme: str, head: bool) -> None:
    runtime = Runtime(micro_settings(quantization=scheme, quantize_head=head, batch_invariant=head))
    info = runtime.info()
    assert info.quantization == scheme
    assert ("diffusion_head" in info.quantized, bool(info.quantized)) == (head, scheme != "none")
    assert info.weight_bytes == runtime.engine.model.num_weight_bytes
    assert info.batch_invariant == head
    assert (f"linear, {scheme}" in info.kernels) == (scheme != "none")
    assert WorkerInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization": "int3"}, "quantization: got 'int3'; valid: none, fp8, w8a16, w4a16"),
        ({"quantize_head": True}, "quantize_head: got true with quantization none; valid: with fp8, w8a16 or w4a16"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Runtime(micro_settings(**changes))


def test_a_quantised_checkpoint_is_not_quantised_again(tmp_path: Path) -> None:
    folder = foreign_checkpoint("awq", tmp_path / "model")
    with pytest.raises(ConfigError, match=r"which is quantised \(awq\): got fp8; valid: none, which runs it as it is"):
        Runtime(micro_settings(model=str(folder), lora=None, quantization="fp8"))
    assert Runtime(micro_settings(model=str(folder), lora=None)).info().quantization == "w4a16"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_that_are_not_finite_are_named(scheme: Scheme, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MICRO, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layers.1.mlp.up_proj.weight"][3, 4] = float("inf")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"encoder\.layers\.1\.mlp\.up_proj: quantize: got NaN or infinity"):
        loaded(folder, torch.bfloat16, scheme=scheme)


def test_matrices_that_are_joined_are_quantised_alike(tmp_path: Path) -> None:
    folder = foreign_checkpoint("gptq_v2", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del tensors[f"{LAYER}mlp.up_proj.{part}"]
    tensors[f"{LAYER}mlp.up_proj.weight"] = torch.zeros(128, 64)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"mlp\.gate_proj, .*mlp\.up_proj partly quantised; valid: all of them alike"):
        loaded(folder, torch.bfloat16)
