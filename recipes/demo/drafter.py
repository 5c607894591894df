"""Trains the low-rank adapter that improves one-pass drafts; the verifier stays as it is.

Blocks [seed, MASK x 31] start at random places of the answer and see the clean causal prefix. The adapter acts on
the blocks only, never on the clean stream, as in decoding. Targets are the verifier's own distributions on the clean
stream. The accepted prefix of a block and its first rejected position count in full. The positions behind it count with
a small share, without which a short training does not get past the first rejection."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from trimode.core.files import replacing
from trimode.recipes.demo import optimizer
from trimode.recipes.demo.batches import BLOCK, Batch, NoisePlan, Row, assemble
from trimode.recipes.demo.export import write_tensors
from trimode.recipes.demo.network import Network


@dataclass(frozen=True)
class DrafterPlan:
    """All settings of the adapter's training."""

    steps: int = 600
    rows_per_step: int = 32
    rank: int = 16
    scale: int = 4  # lora_alpha / rank
    lr: float = 4e-3
    warmup: int = 20
    decay_from: float = 0.2
    temperature: float = 3.0
    behind_share: float = 0.1
    noise: NoisePlan = field(default_factory=lambda: NoisePlan(blocks_per_row=2, aligned_share=0.25, full_share=1.0))


class Drafter:
    """A frozen network with an adapter on every o_proj that acts on the noisy stream only."""

    def __init__(self, network: Network, plan: DrafterPlan, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.plan = plan
        self.network = network
        config = LoraConfig(
            r=plan.rank, lora_alpha=plan.rank * plan.scale, target_modules=["o_proj"], lora_dropout=0.0, bias="none"
        )
        self.adapted: Any = get_peft_model(network, config)
        self.gate = torch.zeros(1)
        for name, module in self.adapted.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(self._gate)

    def _gate(self, _: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0] * self.gate,)

    def hidden(self, ids_bt: Tensor, positions_bt: Tensor, mask_btt: Tensor, num_noisy: int) -> Tensor:
        """Returns hidden states, with the adapter on for the first num_noisy positions and off behind them."""
        self.gate = (torch.arange(ids_bt.shape[1]) < num_noisy).float()[None, :, None]
        return self.network.hidden(ids_bt, positions_bt, mask_btt)

    def logits(self, ids_bt: Tensor, positions_bt: Tensor, mask_btt: Tensor) -> Tensor:
        """Returns draft logits of one block per row; the block stands in front of its prefix."""
        out: Tensor = self.network.diffusion_head(self.hidden(ids_bt, positions_bt, mask_btt, BLOCK))
        return out

    def verifier_logits(self, ids_bt: Tensor, positions_bt: Tensor, mask_btt: Tensor) -> Tensor:
        """Returns logits with the adapter off."""
        out: Tensor = self.network.diffusion_head(self.hidden(ids_bt, positions_bt, mask_btt, 0))
        return out

    def tensors(self) -> dict[str, Tensor]:
        """Returns the adapter's tensors under peft's own names."""
        return {
            name.replace(".default", ""): tensor.detach().float().contiguous()
            for name, tensor in self.adapted.state_dict().items()
            if "lora_" in name
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Sets the adapter's tensors, named as in a file."""
        own = self.adapted.state_dict()
        own.update({name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()})
        self.adapted.load_state_dict(own)


def acceptance_weights(matches_nb: Tensor, behind_share: float) -> Tensor:
    """Returns 1 for the accepted prefix and the first rejected position, and a small share behind it."""
    before = torch.cat((torch.ones_like(matches_nb[:, :1]), matches_nb[:, :-1]), dim=1).float().cumprod(1)
    return before + (1 - before) * behind_share


def hybrid_loss(draft_nv: Tensor, verifier_nv: Tensor, temperature: float) -> Tensor:
    """Returns lambda * KL + (1 - lambda) * TV at a temperature, plus the cross entropy to the verifier's choice."""
    log_q = (draft_nv / temperature).log_softmax(-1)
    log_p = (verifier_nv / temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    overlap = torch.minimum(p, q).sum(-1)
    share = torch.exp(-0.5 * overlap.detach())
    divergence = (p * (log_p - log_q)).sum(-1)
    hybrid = share * divergence + (1 - share) * (1 - overlap)
    return hybrid + F.cross_entropy(draft_nv, verifier_nv.argmax(-1), reduction="none")


def drafter_loss(drafter: Drafter, batch: Batch, rows: list[Row]) -> Tensor:
    """Returns the mean loss over the positions at or before each row's eos."""
    noisy = drafter.plan.noise.blocks_per_row * BLOCK
    hidden = drafter.hidden(batch.ids_bt, batch.positions_bt, batch.mask_btt, noisy)
    places = batch.positions_bt[:, :noisy].view(len(rows), -1, BLOCK)[:, :, 1:]
    last = torch.tensor([len(row.prompt_ids) + len(row.answer_ids) - 2 for row in rows])[:, None, None]
    inside = places <= last
    source = torch.arange(len(rows))[:, None, None] * batch.ids_bt.shape[1] + noisy + places.clamp(max=last) - 1
    flat = hidden.flatten(0, 1)
    head = drafter.network.diffusion_head
    with torch.no_grad():
        verifier = head(flat[source.flatten()])
    draft = head(hidden[:, :noisy].reshape(len(rows), -1, BLOCK, hidden.shape[-1])[:, :, 1:].flatten(0, 2))
    matches = (draft.argmax(-1) == verifier.argmax(-1)).view(-1, BLOCK - 1)
    weight = acceptance_weights(matches, drafter.plan.behind_share).flatten() * inside.flatten()
    return (hybrid_loss(draft, verifier, drafter.plan.temperature) * weight).sum() / weight.sum()


class DrafterTrainer:
    """Trains the adapter. Its state is in one checkpoint file, from which a killed training continues."""

    def __init__(self, drafter: Drafter, make_rows: Callable[[int, str], list[Row]], checkpoint: Path) -> None:
        self.drafter, self.make_rows, self.checkpoint = drafter, make_rows, checkpoint
        self.parameters = [parameter for parameter in drafter.adapted.parameters() if parameter.requires_grad]
        self.adam = torch.optim.AdamW(self.parameters, lr=drafter.plan.lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.step = 0
        self.made_by = f"{drafter.plan!r} {weights_digest(drafter.network)}"
        self._resume()

    def _resume(self) -> None:
        """Continues from the checkpoint. One that belongs to another base or plan is ignored."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        if state["made_by"] == self.made_by:
            self.drafter.load_tensors(state["adapter"])
            self.adam.load_state_dict(state["adam"])
            self.step = state["step"]

    def save(self) -> None:
        """Writes the checkpoint; a training killed meanwhile finds the last one."""
        state = {
            "made_by": self.made_by,
            "adapter": self.drafter.tensors(),
            "adam": self.adam.state_dict(),
            "step": self.step,
        }
        with replacing(self.checkpoint) as beside:
            torch.save(state, beside)

    def train_step(self) -> float:
        """Does one update and returns the loss. It depends on weights, optimizer state and step number alone."""
        plan = self.drafter.plan
        rows = self.make_rows(plan.rows_per_step, f"drafter-{self.step}")
        rng = random.Random(f"drafter-noise-{self.step}")  # noqa: S311 - training noise, not a secret
        loss = drafter_loss(self.drafter, assemble(rows, plan.noise, rng), rows)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = plan.lr * optimizer.schedule(self.step, plan.steps, plan.warmup, plan.decay_from)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def run(self, log: Callable[[dict[str, Any]], None]) -> None:
        """Trains all steps, with a progress bar, a log and checkpoints."""
        steps = self.drafter.plan.steps
        with Progress() as progress:
            bar = progress.add_task("drafter", total=steps, completed=self.step)
            while self.step < steps:
                loss = self.train_step()
                progress.update(bar, completed=self.step)
                if self.step % 20 == 0:
                    log({"drafter_step": self.step, "drafter_loss": round(loss, 4)})
                if self.step % 50 == 0 or self.step == steps:
                    self.save()


def weights_digest(network: Network) -> str:
    """Returns the sha256 of the base weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def write_adapter(drafter: Drafter, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors in the layout of peft."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = drafter.plan
    config = {
        "peft_type": "LORA",
        "r": plan.rank,
        "lora_alpha": plan.rank * plan.scale,
        "target_modules": ["o_proj"],
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tensors(drafter.tensors(), folder / "adapter_model.safetensors")


def read_adapter(network: Network, folder: Path) -> Drafter:
    """Returns a drafter with the tensors of an exported folder."""
    config = json.loads((folder / "adapter_config.json").read_text())
    plan = DrafterPlan(rank=config["r"], scale=config["lora_alpha"] // config["r"])
    drafter = Drafter(network, plan)
    drafter.load_tensors(load_file(folder / "adapter_model.safetensors"))
    return drafter
