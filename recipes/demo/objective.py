"""The joint objective L_AR + alpha * L_diff, averaged over all its tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from trimode.recipes.demo.batches import Batch
from trimode.recipes.demo.network import Network


@dataclass(frozen=True)
class Losses:
    """Sums over tokens, and the numbers of tokens."""

    ar_sum: Tensor
    diffusion_sum: Tensor  # weighted by 1 / masking rate
    num_ar: int
    num_masked: int

    def joint_sum(self, alpha: float) -> Tensor:
        """Returns the sum that is divided by the number of tokens and minimised."""
        return self.ar_sum + alpha * self.diffusion_sum


def losses(network: Network, batch: Batch, smoothing: float) -> Losses:
    """Returns both cross entropies of one batch, the diffusion half with label smoothing.

    Smoothing keeps the confidence of an uncertain position away from the commit threshold of block decoding."""
    hidden = network.hidden(batch.ids_bt, batch.positions_bt, batch.mask_btt).flatten(0, 1)
    logits = network.diffusion_head(hidden[torch.cat((batch.ar_index, batch.noisy_index))]).float()
    ar_logits, noisy_logits = logits.split((len(batch.ar_index), len(batch.noisy_index)))
    noisy = F.cross_entropy(noisy_logits, batch.noisy_target, reduction="none", label_smoothing=smoothing)
    return Losses(
        F.cross_entropy(ar_logits, batch.ar_target, reduction="sum"),
        (noisy * batch.noisy_weight).sum(),
        len(batch.ar_index),
        len(batch.noisy_index),
    )
