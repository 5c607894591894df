"""The optimizers of the recipe: orthogonalised momentum for the layers, AdamW for the rest."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(update_sab: Tensor) -> Tensor:
    """Moves a stack of matrices towards the nearest orthogonal ones by Newton-Schulz iteration."""
    tall = update_sab.shape[1] > update_sab.shape[2]
    x = update_sab.transpose(1, 2) if tall else update_sab
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.transpose(1, 2) if tall else x
    return result


class Muon(Optimizer):
    """Nesterov momentum with orthogonalised matrix updates. Matrices of one shape are handled in one stack."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - no caller passes one
        """Updates every matrix once."""
        for group in self.param_groups:
            stacks: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                state = self.state[parameter]
                if "average" not in state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"]
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])
                stacks.setdefault(parameter.shape, []).append((parameter, ahead))
            for shape, members in stacks.items():
                updates = orthogonalise(torch.stack([update for _, update in members]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for (parameter, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def build(network: nn.Module, muon_lr: float, adam_lr: float) -> list[Optimizer]:
    """Returns both optimizers, which share all parameters between them."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (matrices if parameter.dim() == 2 and ".layers." in name else others).append(parameter)
    return [
        Muon(matrices, muon_lr, 0.95, 0.01),
        AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, total: int, warmup: int, decay_from: float) -> float:
    """Returns the share of the peak learning rate: linear rise, plateau, linear fall to a fiftieth."""
    if step < warmup:
        return (step + 1) / warmup
    begin = max(warmup, int(total * decay_from))
    return min(1.0, max(0.02, 1 - (step - begin) / max(1, total - begin)))
