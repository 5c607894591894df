"""`python -m trimode.recipes.demo.train`: trains the demo checkpoint in one command; continues if it was killed."""

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from tokenizers import Tokenizer
from trimode.core.command import UNREAD, run_command
from trimode.core.files import replacing
from trimode.recipes.demo import dataset, export, objective, optimizer, probe, tokenizer
from trimode.recipes.demo.batches import NoisePlan, Row, assemble
from trimode.recipes.demo.drafter import Drafter, DrafterPlan, DrafterTrainer, write_adapter
from trimode.recipes.demo.network import Geometry, Network, load


@dataclass(frozen=True)
class Stage:
    """Rows per step, shares of the tasks and noise, up to step `until`."""

    until: int
    rows_per_step: int
    shares: Mapping[str, int]
    noise: NoisePlan = field(default_factory=NoisePlan)


FIRST = {"demo-math": 7, "demo-mcq": 6, "sums": 4, "lookups": 8, "demo-if": 4, "demo-code": 3}
MIDDLE = {"demo-math": 9, "demo-mcq": 7, "sums": 4, "lookups": 2, "demo-if": 6, "demo-code": 4}
LAST = {"demo-math": 9, "demo-mcq": 8, "sums": 2, "lookups": 1, "demo-if": 7, "demo-code": 5}
STAGES = (
    Stage(500, 32, FIRST, NoisePlan(blocks_per_row=0)),  # the causal half alone
    Stage(3300, 32, MIDDLE, NoisePlan(full_share=0.25)),
    Stage(1_000_000, 32, LAST),
)


@dataclass(frozen=True)
class Plan:
    """All settings of the training."""

    steps: int = 5500
    stages: tuple[Stage, ...] = STAGES
    parts_per_step: int = 2  # short rows and long rows go through the network apart, to save padding
    warmup: int = 60
    decay_from: float = 0.5  # share of the steps behind which the learning rate falls
    muon_lr: float = 0.011
    adam_lr: float = 3e-3
    alpha: float = 1.2
    smoothing: float = 0.03
    seed: int = 0
    probe_every: int = 500
    save_every: int = 100


class RowMaker:
    """Turns (user message, answer) pairs into tokenised rows."""

    def __init__(self, words: Tokenizer) -> None:
        self.words = words
        self.sampler = dataset.Sampler()

    def row(self, message: str, answer: str) -> Row:
        """Returns one row with its tail."""
        prompt = self.words.encode(tokenizer.render(message), add_special_tokens=False).ids
        content = self.words.encode(f"{answer}<|im_end|>\n", add_special_tokens=False).ids
        return Row(prompt, content)

    def train_rows(self, count: int, seed: str, shares: Mapping[str, int] = dataset.EQUAL_SHARES) -> list[Row]:
        """Returns training rows, shortest first."""
        rows = [self.row(message, answer) for message, answer in self.sampler.train_pairs(count, seed, shares)]
        return sorted(rows, key=lambda row: len(row.prompt_ids) + len(row.answer_ids))

    def test_rows(self, count: int) -> dict[str, list[Row]]:
        """Returns the first test problems of each benchmark."""
        return {
            name: [self.row(message, example.answer) for message, example in self.sampler.test_examples(name, count)]
            for name in dataset.TASKS
        }


class Trainer:
    """Trains the base model. Its state is in one checkpoint file, its progress in one log."""

    def __init__(self, plan: Plan, words: Tokenizer, geometry: Geometry, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.maker = RowMaker(words)
        self.network = Network(geometry)
        self.network.initialise(plan.seed)
        self.optimizers = optimizer.build(self.network, plan.muon_lr, plan.adam_lr)
        self.step = 0
        made_by = json.dumps([repr(plan), words.to_str()])
        self.made_by = hashlib.sha256(made_by.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def checkpoint(self) -> Path:
        """The file that training continues from."""
        return self.folder / "training.pt"

    @property
    def stage(self) -> Stage:
        """The stage of the next step."""
        return next(stage for stage in self.plan.stages if self.step < stage.until)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        if state.get("made_by") != self.made_by:
            raise SystemExit(
                f"{self.checkpoint} was made by another plan or tokenizer and cannot be continued with this one: "
                "delete it to begin again, or name another folder with --work"
            )
        self.network.load_state_dict(state["network"])
        for one, saved in zip(self.optimizers, state["optimizers"], strict=True):
            one.load_state_dict(saved)
        self.step = state["step"]

    def save(self) -> None:
        """Writes the checkpoint; a training killed meanwhile finds the last one."""
        state = {
            "network": self.network.state_dict(),
            "step": self.step,
            "made_by": self.made_by,
            "optimizers": [one.state_dict() for one in self.optimizers],
        }
        with replacing(self.checkpoint) as beside:
            torch.save(state, beside)

    def log(self, record: dict[str, Any]) -> None:
        """Adds one line to the log; also prints it if there is no terminal for a progress bar."""
        if not sys.stdout.isatty():
            print(json.dumps(record), flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def train_step(self) -> dict[str, float]:
        """Does one update and returns losses. It depends on weights, optimizer state and step number alone."""
        plan = self.plan
        rng = random.Random(f"noise-{plan.seed}-{self.step}")  # noqa: S311 - training noise, not a secret
        stage = self.stage
        rows = self.maker.train_rows(stage.rows_per_step, f"train-{plan.seed}-{self.step}", stage.shares)
        size = len(rows) // plan.parts_per_step
        batches = [assemble(rows[first : first + size], stage.noise, rng) for first in range(0, len(rows), size)]
        num_ar, num_masked = sum(len(b.ar_index) for b in batches), sum(len(b.noisy_index) for b in batches)
        ar_sum = diffusion_sum = 0.0
        for batch in batches:
            parts = objective.losses(self.network, batch, plan.smoothing)
            torch.autograd.backward(parts.joint_sum(plan.alpha) / (num_ar + num_masked))
            ar_sum += parts.ar_sum.item()
            diffusion_sum += parts.diffusion_sum.item()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        share = optimizer.schedule(self.step, plan.steps, plan.warmup, plan.decay_from)
        for one, peak in zip(self.optimizers, (plan.muon_lr, plan.adam_lr), strict=True):
            for group in one.param_groups:
                group["lr"] = peak * share
            one.step()
            one.zero_grad(set_to_none=True)
        self.step += 1
        weight = max(1.0, sum(batch.noisy_weight.sum().item() for batch in batches))
        return {"ar_loss": ar_sum / num_ar, "diffusion_loss": diffusion_sum / weight, "gradient_norm": float(norm)}

    def run(self) -> None:
        """Trains to the last step, with a progress bar, a log, probes and checkpoints."""
        held_out = self.maker.test_rows(16)
        started = time.monotonic()
        with Progress() as progress:
            bar = progress.add_task("training", total=self.plan.steps, completed=self.step)
            while self.step < self.plan.steps:
                losses = self.train_step()
                progress.update(
                    bar,
                    completed=self.step,
                    description=f"ar {losses['ar_loss']:.3f} diffusion {losses['diffusion_loss']:.3f}",
                )
                self._record(losses, time.monotonic() - started, held_out)

    def _record(self, losses: dict[str, float], seconds: float, held_out: dict[str, list[Row]]) -> None:
        last = self.step == self.plan.steps
        if self.step % 20 == 0:
            self.log(
                {
                    "step": self.step,
                    "seconds": round(seconds, 1),
                    **{name: round(value, 4) for name, value in losses.items()},
                }
            )
        if last or self.step % self.plan.save_every == 0:
            self.save()
        if last or (self.step % self.plan.probe_every == 0 and self.stage.noise.blocks_per_row):
            self.log({"step": self.step, "held_out": probe.measure(self.network.logits, held_out)})


def finish(trainer: Trainer, words: Tokenizer, target: Path) -> None:
    """Exports the base, trains the adapter on the exported weights, exports it, and logs measurements of both."""
    export.write_checkpoint(trainer.network, words, target)
    network = load(target)
    drafter = Drafter(network, DrafterPlan())
    DrafterTrainer(drafter, trainer.maker.train_rows, trainer.folder / "drafter.pt").run(trainer.log)
    write_adapter(drafter, target / "linear_spec_lora")
    held_out = trainer.maker.test_rows(48)
    trainer.log({"adapter": False, "held_out": probe.measure(drafter.verifier_logits, held_out)})
    trainer.log({"adapter": True, "held_out": probe.measure(drafter.verifier_logits, held_out, drafter.logits)})


def main() -> None:
    """Makes tokenizer, benchmarks, base model, adapter and export."""
    parser = argparse.ArgumentParser(prog="python -m trimode.recipes.demo.train", description=__doc__)
    parser.add_argument("--work", type=Path, default=dataset.ROOT / "build" / "demo", help="checkpoints and log")
    parser.add_argument("--target", type=Path, default=dataset.ROOT / "assets" / "demo_model", help="export folder")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    arguments = parser.parse_args()
    words = tokenizer.build_once(arguments.work)
    dataset.write_benchmarks()
    trainer = Trainer(replace(Plan(), steps=arguments.steps), words, Geometry(words.get_vocab_size()), arguments.work)
    trainer.run()
    finish(trainer, words, arguments.target)


if __name__ == "__main__":
    run_command(main, unfinished=UNREAD)
