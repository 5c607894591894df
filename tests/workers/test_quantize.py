"""The quantize command line: its folder loads as what quantising at load gives, and is never half there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trimode.kernels.linear.quantized import QuantizedWeight
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO
from trimode.tests.workers.quantized import foreign_checkpoint, read_object
from trimode.tests.workers.test_text import DEMO
from trimode.workers import quantize
from trimode.workers.model import packed_folder
from trimode.workers.model.packed_folder import FORMATS
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.runtime import Runtime

SCHEMES = [scheme.value for scheme in FORMATS]


def run(monkeypatch: pytest.MonkeyPatch, model: Path, out: Path, scheme: str, *flags: str) -> int:
    arguments = ["--model", str(model), "--out", str(out), "--scheme", scheme, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["quantize", *arguments, *flags])
    return quantize.main()


def quantised_matrices(model: TriModeModel) -> list[QuantizedWeight | None]:
    every = [weight for layer in model.layers for weight in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    return [weight.quantized for weight in (*every, model._head)]


@pytest.mark.parametrize(
    ("source", "scheme", "dtype", "head"),
    [
        (MICRO, "fp8", "bfloat16", False),
        (MICRO, "fp8", "float32", True),
        (MICRO, "w8a16", "bfloat16", True),
        (DEMO, "w8a16", "float32", False),
        (MICRO, "w4a16", "bfloat16", True),
        (MICRO, "w4a16", "float32", False),
        (DEMO, "w4a16", "bfloat16", False),
    ],
)
def test_the_folder_loads_as_what_quantising_at_load_gives(
    source: Path, scheme: str, dtype: str, head: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = ["--quantize-head"] if head else []
    assert run(monkeypatch, source, tmp_path / "out", scheme, *flags) == 0
    lora = str(tmp_path / "out" / "linear_spec_lora")
    written = Runtime(micro_settings(model=str(tmp_path / "out"), lora=lora, dtype=dtype))
    at_load = Runtime(
        micro_settings(model=str(source), lora=lora, dtype=dtype, quantization=scheme, quantize_head=head)
    )
    assert written.engine.model.num_weight_bytes == at_load.engine.model.num_weight_bytes
    pairs = zip(*(quantised_matrices(runtime.engine.model) for runtime in (written, at_load)), strict=True)
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert torch.equal(one.codes.view(torch.uint8), other.codes.view(torch.uint8))
        assert torch.equal(one.scales, other.scales)
        assert (one.zeros is None and other.zeros is None) or torch.equal(one.zeros, other.zeros)  # type: ignore[arg-type]
        assert (one.group_size, one.dtype) == (other.group_size, other.dtype)
    fields = {"prompt_ids": list(range(3, 20)), "mode": "ar", "max_new_tokens": 20, "ignore_eos": True}
    sequences = [runtime.submit("a", fields) for runtime in (written, at_load)]
    for runtime in (written, at_load):
        while runtime.engine.busy:
            runtime.engine.step()
    assert written.generation(sequences[0]).token_ids == at_load.generation(sequences[1]).token_ids


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_stands_in_the_folder(
    scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert run(monkeypatch, DEMO, out, scheme) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in DEMO.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    for name in ("tokenizer.json", "chat_template.jinja", "linear_spec_lora/adapter_model.safetensors"):
        assert (out / name).read_bytes() == (DEMO / name).read_bytes()
    config = read_object(out / "config.json")
    stored = config.pop("quantization_config")
    assert config == read_object(DEMO / "config.json")
    assert (stored["quant_method"], stored["quantization_status"]) == ("compressed-tensors", "compressed")
    assert stored["ignore"] == ["diffusion_head"]
    sizes = {name: group["weights"]["group_size"] for name, group in stored["config_groups"].items()}
    targets = {name: group["targets"] for name, group in stored["config_groups"].items()}
    if scheme in ("fp8", "w8a16"):
        assert (sizes, targets) == ({"group_0": None}, {"group_0": ["Linear"]})
    else:  # 192 inputs are no multiple of 128, and 512 are
        assert sizes == {"group_0": 128, "group_1": 64}
        assert targets["group_0"] == ["re:.*down_proj$"]
        assert len(targets["group_1"]) == 6
    dtypes = {name.rpartition(".")[2]: tensor.dtype for name, tensor in load_file(out / "model.safetensors").items()}
    assert dtypes["weight_scale"] == (torch.bfloat16 if scheme == "w4a16" else torch.float32)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir() if path.is_file()} == {0o644}
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown[:4]] == [f"layers.{number}" for number in range(4)]
    assert all(line.count("%") == 7 for line in shown[:4])
    assert shown[4].startswith("weights: 3.7 MiB before, ")
    assert shown[5].startswith(f"{out}: {scheme}, 28 matrices; plain: encoder.embed_tokens, diffusion_head, norms")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shards_hold_the_same_tensors(scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, size in (("one", "4"), ("many", str(200_000 / 2**30))):
        assert run(monkeypatch, MICRO, tmp_path / name, scheme, "--shard-gib", size) == 0
    index = read_object(tmp_path / "many" / "model.safetensors.index.json")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(path.stat().st_size < 210_000 for path in shards)
    one = load_file(tmp_path / "one" / "model.safetensors")
    many = {name: (path.name, tensor) for path in shards for name, tensor in load_file(path).items()}
    assert set(many) == set(one) == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    for name, (file, tensor) in many.items():
        assert index["weight_map"][name] == file
        assert torch.equal(tensor.view(torch.uint8), one[name].view(torch.uint8))
    both = [Runtime(micro_settings(model=str(tmp_path / name))).info() for name in ("one", "many")]
    assert both[0].weight_bytes == both[1].weight_bytes


def test_an_empty_folder_is_taken_and_a_full_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert run(monkeypatch, MICRO, tmp_path / "out", "fp8") == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run(monkeypatch, MICRO, tmp_path / "out", "w4a16") == 2
    assert "got something that is there already; valid: a new or empty folder" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert run(monkeypatch, MICRO, tmp_path / "out" / "config.json", "w4a16") == 2


@pytest.mark.parametrize("where", ["shards", "config"])
def test_what_is_interrupted_leaves_no_folder(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def interrupt(*_arguments: object, **_named: object) -> None:
        seen.extend(sorted(item.name for item in path.iterdir()) for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    target = (packed_folder, "save_file") if where == "shards" else (quantize, "write_config")
    monkeypatch.setattr(*target, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, MICRO, tmp_path / "out", "w4a16")
    assert len(seen) == 1
    assert "config.json" not in seen[0]  # until the end no folder is a checkpoint
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_quantised_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = foreign_checkpoint("gptq_v1", tmp_path / "packed")
    assert run(monkeypatch, packed, tmp_path / "out", "fp8") == 2
    assert "got a checkpoint quantised by gptq; valid: a plain one" in capsys.readouterr().err
    narrow = Path(shutil.copytree(MICRO, tmp_path / "narrow"))
    config = read_object(narrow / "config.json") | {"intermediate_size": 40}
    (narrow / "config.json").write_text(json.dumps(config))
    tensors = load_file(narrow / "model.safetensors")
    for name, tensor in tensors.items():
        if ".mlp." in name:
            tensors[name] = (tensor[:, :40] if "down" in name else tensor[:40]).contiguous()
    tensors["encoder.layers.3.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(tensors, narrow / "model.safetensors")
    assert run(monkeypatch, narrow, tmp_path / "out", "w4a16") == 2
    assert "w4a16: got 40 inputs, expected a multiple of 32" in capsys.readouterr().err
    assert run(monkeypatch, narrow, tmp_path / "out", "fp8") == 2
    assert "encoder.layers.3.self_attn.q_proj: quantize: got NaN or infinity" in capsys.readouterr().err
    assert run(monkeypatch, MICRO, tmp_path / "out", "fp8", "--shard-gib", "0") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["narrow", "packed"]
