"""Training: it learns, and a killed run that resumes ends where an undisturbed one does."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from trimode.recipes.demo import dataset, export, tokenizer
from trimode.recipes.demo.batches import assemble
from trimode.recipes.demo.decode import decode_ar, decode_dlm, decode_linear_spec
from trimode.recipes.demo.drafter import (
    Drafter,
    DrafterPlan,
    DrafterTrainer,
    drafter_loss,
    read_adapter,
    write_adapter,
)
from trimode.recipes.demo.network import Geometry, Network, load
from trimode.recipes.demo.train import Plan, RowMaker, Stage, Trainer

pytestmark = pytest.mark.process

PLAN = Plan(
    steps=4,
    warmup=1,
    probe_every=100,
    save_every=2,
    stages=(Stage(3, 4, dataset.EQUAL_SHARES), Stage(9, 5, {**dataset.EQUAL_SHARES, "sums": 1, "lookups": 1})),
)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.from_file(str(dataset.ROOT / "assets" / "demo_model" / "tokenizer.json"))


def geometry(words: Tokenizer) -> Geometry:
    return Geometry(words.get_vocab_size(), 32, 48, 2, 2, 1, 16)


def small(words: Tokenizer, seed: int = 0) -> Network:
    network = Network(geometry(words))
    network.initialise(seed)
    return network


def test_resume_ends_where_an_undisturbed_run_does(words: Tokenizer, tmp_path: Path) -> None:
    whole = Trainer(PLAN, words, geometry(words), tmp_path / "whole")
    losses = [whole.train_step()["ar_loss"] for _ in range(PLAN.steps)]
    killed = Trainer(PLAN, words, geometry(words), tmp_path / "killed")
    killed.train_step()
    killed.train_step()
    killed.save()
    killed.train_step()  # lost: the run is killed before it saves again
    resumed = Trainer(PLAN, words, geometry(words), tmp_path / "killed")
    assert resumed.step == 2
    resumed.train_step()
    resumed.train_step()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert losses[-1] < losses[0]


def test_state_of_another_plan_is_refused(words: Tokenizer, tmp_path: Path) -> None:
    Trainer(PLAN, words, geometry(words), tmp_path).save()
    with pytest.raises(SystemExit, match="made by another plan or tokenizer"):
        Trainer(replace(PLAN, alpha=0.5), words, geometry(words), tmp_path)


DRAFTER = DrafterPlan(steps=4, rows_per_step=4, rank=2, warmup=1)


def test_drafter_that_resumes_ends_where_an_undisturbed_one_does(words: Tokenizer, tmp_path: Path) -> None:
    maker = RowMaker(words)

    def trainer(name: str) -> DrafterTrainer:
        return DrafterTrainer(Drafter(small(words), DRAFTER), maker.train_rows, tmp_path / name)

    whole = trainer("whole.pt")
    whole.run(lambda _record: None)
    killed = trainer("killed.pt")
    for _ in range(2):
        killed.train_step()
    killed.save()
    killed.train_step()  # lost
    resumed = trainer("killed.pt")
    assert resumed.step == 2
    resumed.run(lambda _record: None)
    for name, tensor in whole.drafter.tensors().items():
        assert torch.equal(tensor, resumed.drafter.tensors()[name]), name


def test_drafter_state_of_another_base_is_not_used(words: Tokenizer, tmp_path: Path) -> None:
    maker = RowMaker(words)
    first = DrafterTrainer(Drafter(small(words), DRAFTER), maker.train_rows, tmp_path / "state.pt")
    first.train_step()
    first.save()
    other = DrafterTrainer(Drafter(small(words, seed=1), DRAFTER), maker.train_rows, tmp_path / "state.pt")
    assert other.step == 0


def test_log_is_json_lines(words: Tokenizer, tmp_path: Path) -> None:
    trainer = Trainer(PLAN, words, geometry(words), tmp_path)
    trainer.log({"step": 1})
    trainer.log({"step": 2})
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_save_replaces_the_checkpoint_and_leaves_nothing_beside_it(words: Tokenizer, tmp_path: Path) -> None:
    trainer = Trainer(PLAN, words, geometry(words), tmp_path / "base")
    drafter = DrafterTrainer(
        Drafter(small(words), DRAFTER), trainer.maker.train_rows, tmp_path / "adapter" / "state.pt"
    )
    for _ in range(2):
        trainer.save()
        drafter.save()
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["training.pt"]
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["state.pt"]


def test_export_round_trips(words: Tokenizer, tmp_path: Path) -> None:
    network = small(words)
    export.write_checkpoint(network, words, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert len(tensors) == 9 * 2 + 3
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    again = load(tmp_path).state_dict()
    assert all(torch.equal(tensor.bfloat16().float(), again[name]) for name, tensor in network.state_dict().items())


def test_linear_spec_writes_what_ar_writes(words: Tokenizer) -> None:
    network = small(words).eval()
    prompts = [words.encode(tokenizer.render(text), add_special_tokens=False).ids for text in ("Hi", "What is 1+1?")]
    ar = decode_ar(network.logits, prompts, 40)
    fast = decode_linear_spec(network.logits, network.logits, prompts, 40)
    for one, other in zip(ar, fast, strict=True):
        assert other.output_ids[:40] == one.output_ids
        assert other.nfe <= 1 + 2 * len(one.output_ids)
    assert all(len(row.output_ids) <= 64 for row in decode_dlm(network.logits, prompts, 64, 0.9))


def test_adapter_leaves_the_verifier_alone_and_learns(words: Tokenizer, tmp_path: Path) -> None:
    network = small(words)
    trainer = Trainer(PLAN, words, geometry(words), tmp_path / "base")
    rows = trainer.maker.train_rows(4, "x")
    drafter = Drafter(network, DrafterPlan(steps=2, rank=4))
    batch = assemble(rows, drafter.plan.noise, random.Random(0))
    before = drafter.verifier_logits(batch.ids_bt, batch.positions_bt, batch.mask_btt)
    loss = drafter_loss(drafter, batch, rows)
    torch.autograd.backward(loss)
    with torch.no_grad():
        for parameter in drafter.adapted.parameters():
            if parameter.requires_grad:
                parameter -= 0.5 * parameter.grad
    after = drafter.verifier_logits(batch.ids_bt, batch.positions_bt, batch.mask_btt)
    assert torch.equal(before, after)
    assert drafter_loss(drafter, batch, rows) < loss
    write_adapter(drafter, tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert set(names) == {
        f"base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_{side}.weight"
        for layer in range(2)
        for side in "AB"
    }
    again = read_adapter(small(words), tmp_path / "adapter")
    assert torch.equal(
        again.logits(batch.ids_bt, batch.positions_bt, batch.mask_btt),
        drafter.logits(batch.ids_bt, batch.positions_bt, batch.mask_btt),
    )
