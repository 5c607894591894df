"""engine=hf against a stand-in checkpoint with remote code, tests/workers/remote_code; the released files are not here.

What it answers must be what the native engine answers: the two share the weights and no decoding code.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers.dynamic_module_utils
from transformers.cache_utils import Cache, DynamicCache
from trimode.core.errors import ConfigError, GenerationError
from trimode.core.protocol import Generation
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO, Case, load_cases
from trimode.tests.workers.quantized import foreign_checkpoint
from trimode.workers import generate
from trimode.workers.hf import HfReference, folder_revision, lenient_crop
from trimode.workers.runtime import Runtime

CASES = {case.name: case for case in load_cases()}
CHOSEN = [case for case in CASES.values() if case.name.split("-")[0] in ("1", "2")]
# peft asks transformers by the old name of a property
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
REMOTE_CODE = Path(__file__).parent / "remote_code"


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where transformers copies remote code: a folder of this run, never the user's."""
    home = tmp_path_factory.mktemp("hf_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(home / "modules"))
        patch.setattr(sys, "path", [*sys.path])
        yield home / "modules"


def stand_in(folder: Path) -> Path:
    """The micro checkpoint with remote code beside its weights."""
    shutil.copytree(MICRO, folder)
    for path in REMOTE_CODE.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def folder(modules_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert modules_cache.name == "modules"
    return stand_in(tmp_path_factory.mktemp("checkpoint") / "stand_in")


@pytest.fixture(scope="module")
def reference(folder: Path) -> HfReference:
    lora, revision = str(folder / "linear_spec_lora"), folder_revision(folder)
    settings = micro_settings(model=str(folder), lora=lora, revision=revision)
    return HfReference(settings, trust_remote_code=True)


def native(runtime: Runtime, case: Case) -> Generation:
    sequence = runtime.submit(case.name, case.fields)
    while runtime.engine.busy:
        runtime.engine.step()
    return runtime.generation(sequence)


@pytest.mark.slow
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_both_engines_give_the_same_answer_and_count(micro: Runtime, reference: HfReference, case: Case) -> None:
    ours, theirs = native(micro, case), reference.generate(case.name, case.fields)
    assert theirs.token_ids == ours.token_ids == case.tokens
    assert theirs.cost.nfe == ours.cost.nfe == case.nfe
    assert theirs.cost.forwards == ours.cost.forwards
    assert (theirs.finish_reason, theirs.cost.acceptance_lengths) == (ours.finish_reason, ours.cost.acceptance_lengths)


def test_the_chosen_cases_cover_every_mode_and_the_adapter() -> None:
    names = {case.name.partition("-")[2] for case in CHOSEN}
    assert names >= {"ar", "ar_noeos", "ar_think", "dlm_0.9", "dlm_think", "linear_spec_0.0", "linear_spec_lora"}
    assert CASES["1-linear_spec_lora"].trace != CASES["1-linear_spec_0.0"].trace


@pytest.mark.parametrize("name", ["2-dlm_0.9", "2-linear_spec_0.0"])
def test_a_limit_between_blocks_cuts_both_alike(micro: Runtime, reference: HfReference, name: str) -> None:
    case = CASES[name]
    cut = Case(name, case.fields | {"max_new_tokens": 13}, [], 0, None)
    ours, theirs = native(micro, cut), reference.generate(name, cut.fields)
    assert (theirs.token_ids, theirs.cost.nfe, theirs.finish_reason) == (ours.token_ids, ours.cost.nfe, "length")


def test_remote_code_runs_only_when_allowed_in_words(folder: Path) -> None:
    with pytest.raises(ConfigError, match="trust_remote_code: got false; valid with engine hf: true"):
        HfReference(micro_settings(model=str(folder), revision=folder_revision(folder)), trust_remote_code=False)


@pytest.mark.parametrize("revision", [None, "main", "0" * 64])
def test_a_folder_is_pinned_by_its_hash(folder: Path, revision: str | None) -> None:
    with pytest.raises(ConfigError, match=f"revision: got {revision}; valid: {folder_revision(folder)}"):
        HfReference(micro_settings(model=str(folder), revision=revision), trust_remote_code=True)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "16c67f0"])
def test_a_hub_id_is_pinned_by_its_full_commit(revision: str | None) -> None:
    with pytest.raises(ConfigError, match=rf"revision: got {revision}; valid: the full commit \(40 hex digits\)"):
        HfReference(micro_settings(model="owner/name", revision=revision), trust_remote_code=True)


@pytest.mark.parametrize("name", ["modeling_nemotron_labs_diffusion.py", "config.json", "model.safetensors"])
def test_the_hash_sees_every_file_that_decides(tmp_path: Path, name: str) -> None:
    copy = stand_in(tmp_path / "copy")
    before = folder_revision(copy)
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    assert folder_revision(copy) != before


def test_quantised_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    settings = micro_settings(model=str(folder), revision=folder_revision(folder), quantization="fp8")
    with pytest.raises(ConfigError, match="quantization with engine hf: got fp8; valid: none"):
        HfReference(settings, trust_remote_code=True)
    packed = foreign_checkpoint("awq", tmp_path / "packed")
    shutil.copy(folder / "modeling_nemotron_labs_diffusion.py", packed)
    with pytest.raises(ConfigError, match="quantization with engine hf: got awq; valid: none"):
        HfReference(micro_settings(model=str(packed), revision=folder_revision(packed)), trust_remote_code=True)


def test_code_of_another_repository_is_refused_unread(tmp_path: Path) -> None:
    copy = stand_in(tmp_path / "copy")
    raw = json.loads((copy / "config.json").read_text())
    raw["auto_map"]["AutoModel"] = "someone/else--modeling.Model"
    (copy / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="code of another repository: someone/else--modeling"):
        HfReference(micro_settings(model=str(copy), revision=folder_revision(copy)), trust_remote_code=True)


def test_a_class_without_the_methods_is_refused_by_name(tmp_path: Path, modules_cache: Path) -> None:
    copy = stand_in(tmp_path / "renamed")
    path = copy / "modeling_nemotron_labs_diffusion.py"
    path.write_text(path.read_text().replace("def linear_spec_generate", "def other"))
    with pytest.raises(ConfigError, match="NemotronLabsDiffusionModel has no linear_spec_generate"):
        HfReference(micro_settings(model=str(copy), revision=folder_revision(copy)), trust_remote_code=True)
    assert list(modules_cache.rglob("modeling_nemotron_labs_diffusion.py"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"top_p": 0.9}, "top_p: got 0.9"),
        ({"top_k": 5}, "top_k: got 5"),
        ({"min_p": 0.1}, "min_p: got 0.1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty: got 1.2"),
        ({"stop": "."}, 'stop: got "."'),
        ({"stop_token_ids": [7]}, "stop_token_ids: got a list of 1"),
        ({"logprobs": True}, "logprobs: got true"),
        ({"mode": "linear_spec", "temperature": 1.0, "acceptance": "rejection"}, "acceptance: got 'rejection'"),
        ({"max_new_tokens": 5000}, "1 in the messages, 5000 in the completion"),
    ],
)
def test_what_the_reference_lacks_is_refused_per_row(
    reference: HfReference, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(GenerationError, match=words) as caught:
        reference.generate("x", {"mode": "ar", "prompt_ids": [1], "max_new_tokens": 4, **fields})
    assert caught.value.status == 400


def test_an_exception_in_remote_code_ends_its_own_request(reference: HfReference) -> None:
    fields: dict[str, object] = {"mode": "ar", "prompt_ids": [1], "max_new_tokens": 4, "temperature": 1.0}
    with pytest.raises(GenerationError, match="AssertionError: the stand-in is greedy") as caught:
        reference.generate("x", fields)
    assert caught.value.status == 500
    assert len(reference.generate("y", fields | {"temperature": 0.0}).token_ids) == 4


def legacy_crop(cache: DynamicCache, length: int) -> None:
    """What crop did before it took only counts: a length to keep, or a negative count to drop."""
    end = length if length >= 0 else cache.get_seq_length() + length
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., :end, :], layer.values[..., :end, :]


@pytest.mark.parametrize("crop", [Cache.crop, legacy_crop], ids=["installed", "legacy"])
@pytest.mark.parametrize(("amount", "left"), [(7, 7), (-3, 7), (10, 10), (12, 10), (1, 1)])
def test_crop_takes_a_length_and_a_count(
    monkeypatch: pytest.MonkeyPatch, crop: Callable[..., None], amount: int, left: int
) -> None:
    monkeypatch.setattr(DynamicCache, "crop", crop)
    cache = DynamicCache()
    keys = torch.arange(10.0).view(1, 1, 10, 1)
    for layer in range(2):
        cache.update(keys, keys, layer)
    with lenient_crop() as lengths:
        cache.crop(amount)
    assert lengths == [left]
    assert [layer.keys.flatten().tolist() for layer in cache.layers] == [list(range(left))] * 2
    assert DynamicCache.crop is crop


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path, rows: list[object], *flags: str) -> int:
    (out / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = ["--model", str(folder), "--input", str(out / "in.jsonl"), "--output", str(out / "out.jsonl")]
    monkeypatch.setattr(sys, "argv", ["generate", *paths, "--dtype", "float32", "--device", "cpu", *flags])
    return generate.main()


def test_the_command_line_answers_rows_with_their_revision(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    case = CASES["1-linear_spec_0.0"]
    rows = [{"id": "a", **case.fields}, {"id": "b", **case.fields, "top_p": 0.5}, {"id": "c", "mode": "ar"}, [1]]
    flags = ("--engine", "hf", "--trust-remote-code", "--revision", folder_revision(folder))
    assert run(monkeypatch, folder, tmp_path, rows, *flags) == 1
    good, *bad = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (good["token_ids"], good["nfe"]) == (case.tokens, case.nfe)
    assert good["revision"] == folder_revision(folder)
    assert ["error" in row for row in bad] == [True] * 3


def test_the_command_line_refuses_to_start_unpinned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, folder, tmp_path, [], "--engine", "hf", "--revision", folder_revision(folder)) == 2
    assert run(monkeypatch, folder, tmp_path, [], "--engine", "hf", "--trust-remote-code") == 2
    assert run(monkeypatch, folder, tmp_path, [], "--trust-remote-code") == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1].split(":")[0] for line in errors] == [
        "trust_remote_code", "revision", "--trust-remote-code and --revision",
    ]  # fmt: skip
    assert not (tmp_path / "out.jsonl").exists()
