"""A low-rank product (LoRA) added to the rows of some tokens, which are named on the device.

T = tokens, I = inputs, H = outputs, R = rank.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.low_rank import cuda, reference


def add_low_rank(
    y_TH: torch.Tensor, x_TI: torch.Tensor, a_RI: torch.Tensor, b_HR: torch.Tensor, scale: float, on_T: torch.Tensor
) -> None:
    """Adds `scale * (x @ a.T) @ b.T` to the rows of y where `on` is not 0, in place. Other rows keep their bits.

    Args:
        y_TH: float `[T, H]`; changed.
        x_TI: `[T, I]`.
        a_RI: `[R, I]`.
        b_HR: `[H, R]`.
        scale: factor of the product.
        on_T: int32 `[T]`: which rows. A captured graph reads it anew in every replay.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    tensors = {"y": y_TH, "x": x_TI, "a": a_RI, "b": b_HR}
    (num_tokens, width), (rank, inputs) = (
        (tuple(tensor.shape) if tensor.dim() == 2 else (-1, -1)) for tensor in (y_TH, a_RI)
    )
    fits = x_TI.shape == (num_tokens, inputs) and b_HR.shape == (width, rank) and on_T.shape == (num_tokens,)
    fits = fits and {tensor.dtype for tensor in tensors.values()} == {y_TH.dtype} and y_TH.is_floating_point()
    if not fits or on_T.dtype != torch.int32 or len({t.device for t in (*tensors.values(), on_T)}) > 1:
        got = ", ".join(
            f"{name} {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            for name, tensor in {**tensors, "on": on_T}.items()
        )
        raise ValueError(
            f"add_low_rank: got {got}; "
            "expected [T, H], [T, I], [R, I] and [H, R] of one float dtype, int32 [T], all on one device"
        )
    run = cuda.add_low_rank if cuda.supports(y_TH, x_TI, a_RI, b_HR, on_T) is None else reference.add_low_rank
    run(y_TH, x_TI, a_RI, b_HR, scale, on_T)


def is_fused(a_RI: torch.Tensor, b_HR: torch.Tensor) -> bool:
    """Returns True if one kernel does all with such factors. Elsewhere two prepared products are faster."""
    return cuda.supports(a_RI, a_RI, a_RI, b_HR) is None


def describe(a_RI: torch.Tensor, b_HR: torch.Tensor) -> str:
    """Returns which implementation runs for such factors, and why."""
    refused = cuda.supports(a_RI, a_RI, a_RI, b_HR)
    return runtime.describe(a_RI, refused) or "reference: the only implementation for a CPU"
